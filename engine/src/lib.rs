//! Containers over time: a resident daemon that makes, keeps and ends them, and what its clients say to it.
//!
//! [`Spec`] is what a client wants of a container; [`protocol`] is how client and daemon talk. Knows nothing of argv and
//! nothing of terminals; the client's streams reach a container by descriptor and never pass through here.
#![forbid(unsafe_code)]

pub mod client;
mod error;
pub mod frames;
pub mod image;
pub mod log;
pub mod names;
pub mod pool;
pub mod protocol;
pub mod record;
pub mod spec;
pub mod state;

pub use client::Client;
pub use error::Error;
pub use record::Record;
pub use spec::Spec;
pub use state::State;
