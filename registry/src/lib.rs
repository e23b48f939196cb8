//! The client's side of the OCI distribution specification 1.1 and of docker's registries.
//!
//! Speaks HTTP for the store, which does not: [`skiff_store::Remote`] is what they have in common.
#![forbid(unsafe_code)]
