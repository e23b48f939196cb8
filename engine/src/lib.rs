//! Containers over time: a resident daemon that makes, keeps and ends them, and what its clients say to it.
//!
//! [`Spec`] is what a client wants of a container; [`protocol`] is how client and daemon talk. Knows nothing of argv and
//! nothing of terminals; the client's streams reach a container by descriptor and never pass through here.
#![forbid(unsafe_code)]

mod adopt;
pub mod attach;
mod checkup;
pub mod client;
mod connection;
mod container;
mod containers;
pub mod daemon;
pub mod document;
mod documents;
mod ending;
mod engine;
mod error;
pub mod figures;
pub mod frames;
pub mod health;
pub mod history;
pub mod image;
mod images;
mod link;
pub mod log;
pub mod metrics;
mod mounts;
pub mod names;
mod plans;
pub mod pool;
pub mod prefetch;
pub mod protocol;
mod reaper;
pub mod record;
mod requests;
pub mod restart;
mod server;
mod sources;
pub mod spec;
pub mod state;
mod streams;
mod uses;
mod watched;

pub use client::Client;
pub use error::Error;
pub use record::Record;
pub use spec::Spec;
pub use state::State;
pub use uses::uses;
