//! The store as its callers see it: images in, directories out.
//!
//! Needs no root; what only root can see prints `skip: needs root`, which `MUST_RUN=1` turns into a failure.
#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

mod archives;
mod check;
mod collect;
mod damage;
mod entries;
mod faults;
mod fixture;
mod images;
mod pack;
mod processes;
mod pull;
mod repository;
mod tars;
mod whiteouts;
