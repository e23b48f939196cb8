//! `features`: what this runtime can do.

use skiff_runtime::oci;

use crate::args::{Args, Global};
use crate::failure::Failure;
use crate::print;

/// `features`.
pub(crate) fn features(_: &Global, _: &Args) -> Result<u8, Failure> {
    let mut text =
        serde_json::to_vec_pretty(&oci::features()).map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    print(&text)
}
