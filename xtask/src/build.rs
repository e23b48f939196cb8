//! `cargo xtask build`: the programs as they are shipped.

use anyhow::{Context, Result, bail};

use crate::{target, workspace};

pub(crate) const HELP: &str =
    "builds skiff and skiff-runtime as they are shipped and prints the folder that they are in";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let Some(argument) = arguments.first() {
        bail!("build takes no argument, got {argument:?}");
    }
    target::prepare();
    let [skiff, _] = workspace::build_each(["skiff", "skiff-runtime"], "release")?;
    println!("{}", skiff.parent().context("the folder of skiff")?.display());
    Ok(())
}
