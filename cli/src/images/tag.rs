//! `skiff tag`.

use skiff_store::ImageName;

use super::local::{Local, failed};
use crate::client::{refused, understand};
use crate::failure::Failure;
use crate::line::{Command, Order, Rest};

pub(crate) static COMMAND: Command<()> = Command {
    name: "tag",
    operands: "IMAGE NAME[:TAG]",
    about: "\
Gives an image one more name. Another image that has it loses it.
",
    sections: &[],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some(((), operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    let [image, name] = <[String; 2]>::try_from(operands)
        .map_err(|_| refused(COMMAND.usage("an image and its new name are needed")))?;
    let name = new_name(&name)?;
    let local = Local::open()?;
    let found = local.store.find(&image).map_err(failed)?;
    local.store.tag(found.id, &name).map_err(failed)?;
    Ok(0)
}

/// A name that an image can be given.
pub(super) fn new_name(text: &str) -> Result<ImageName, Failure> {
    let wrong = |reason: String| refused(Failure::engine(format!("invalid name '{text}': {reason}")));
    let name = ImageName::parse(text).map_err(wrong)?;
    match name.digest() {
        Some(_) => Err(wrong("refusing to create a tag with a digest reference".into())),
        None => Ok(name),
    }
}
