//! What the daemon does with containers over time, asked by the command line and, where it is to be hostile, by its socket.
//!
//! Every test has a daemon of its own, which its first command starts and which ends with it.

mod adoption;
mod descriptors;
mod hostile;
mod leaving;
mod lifecycle;
mod pools;
mod stuck;
