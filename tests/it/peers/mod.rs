//! Programs that people run containers with, using the runtime under test: docker, containerd's `ctr`, and podman as
//! root and as an ordinary user.
//!
//! Each peer runs privately in a [`world::World`], is started once and shared by all its tests. A test is a story
//! ([`stories`]) that is told twice: with the runtime under test and, at the same time, with another runtime. Both must
//! see the same, word for word, and what the story itself expects.

pub(crate) mod engine;
mod exchange;
mod observed;
mod stories;
pub(crate) mod world;

mod containerd;
pub(crate) mod docker;
pub(crate) mod podman;
