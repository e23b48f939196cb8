//! What the client says, and what it makes of answers, against a server that the tests script.

mod auth;
mod pull;
mod server;
mod trust;
mod write;
