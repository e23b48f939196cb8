//! `skiff save`, `skiff load` and `skiff import`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use skiff_engine::log::stamp::rfc3339;
use skiff_store::{Archive, ImageName, Making, Platform, Saving};

use super::local::{Local, failed};
use super::progress::{Board, To};
use super::pull::{Layers, has_tag};
use super::sink::Sink;
use super::some_images;
use super::tag::new_name;
use super::wanted::is_for;
use crate::client::{now_ns, os, print, refused, understand};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, add, put};

/// The kinds of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Form {
    #[default]
    Docker,
    Oci,
}

#[derive(Debug, Default)]
pub(crate) struct Save {
    output: Option<PathBuf>,
    form: Form,
    platform: Option<Platform>,
}

pub(crate) static SAVE: Command<Save> = Command {
    name: "save",
    operands: "[OPTIONS] IMAGE…",
    about: "\
Writes images with their names into one tar archive, to standard output or a file. A name without a tag means all its
tags.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(
                None,
                "format",
                "docker-archive|oci-archive",
                "what 'docker load' reads, or an OCI layout (default docker-archive)",
                |a, v| {
                    put(
                        &mut a.form,
                        match v {
                            "docker-archive" => Form::Docker,
                            "oci-archive" => Form::Oci,
                            _ => return Err("neither docker-archive nor oci-archive".into()),
                        },
                    )
                },
            ),
            Flag::bytes(Some('o'), "output", "FILE", "write to this file", |a, v| {
                put(&mut a.output, Some(PathBuf::from(v)))
            }),
            Flag::value(None, "platform", "OS/ARCH[/VARIANT]", "fail if they are for another", |a, v| {
                put(&mut a.platform, Some(Platform::parse(v)?))
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn save(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, images)) = understand(&SAVE, words)? else { return Ok(0) };
    some_images(&SAVE, &images)?;
    let local = Local::open()?;
    let mut all: Vec<Saving> = Vec::new();
    for image in &images {
        for saving in savings(&local, image)? {
            is_for(&local, saving.id, image, args.platform.as_ref())?;
            match all.iter_mut().find(|other| other.id == saving.id) {
                Some(other) => other.names.extend(saving.names),
                None => all.push(saving),
            }
        }
    }
    for saving in &mut all {
        saving.names.sort();
        saving.names.dedup();
    }
    let mut sink = Sink::open(args.output.as_deref(), "save")?;
    let to = match args.form {
        Form::Docker => skiff_store::To::Docker(&mut sink),
        Form::Oci => skiff_store::To::OciArchive(&mut sink),
    };
    local.store.save(&all, to).map_err(failed)?;
    sink.keep()?;
    Ok(0)
}

/// The images that `text` means, with the names that they are saved under: the one that was given, all tags of a repository
/// without a tag, none if it is an id.
fn savings(local: &Local, text: &str) -> Result<Vec<Saving>, Failure> {
    if !has_tag(text) && !text.contains('@') {
        let wanted = ImageName::parse(text).map(|name| name.repository()).unwrap_or_default();
        let tags = local.store.images().map_err(failed)?.into_iter().filter_map(|summary| {
            let names: Vec<ImageName> =
                summary.names.iter().filter(|name| name.repository() == wanted).cloned().collect();
            (!names.is_empty()).then_some(Saving { id: summary.id, names })
        });
        let tags: Vec<Saving> = tags.collect();
        if !tags.is_empty() {
            return Ok(tags);
        }
    }
    let found = local.store.find(text).map_err(failed)?;
    let names = found.name.into_iter().filter(|name| name.tag().is_some() && name.digest().is_none());
    Ok(vec![Saving { id: found.id, names: names.collect() }])
}

#[derive(Debug, Default)]
pub(crate) struct Load {
    input: Option<PathBuf>,
    platform: Option<Platform>,
    quiet: bool,
}

pub(crate) static LOAD: Command<Load> = Command {
    name: "load",
    operands: "[OPTIONS]",
    about: "\
Reads images with their names from an archive, packed or not, of 'docker save' or of an OCI layout: from standard input
or a file.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::bytes(Some('i'), "input", "FILE", "read from this file", |a, v| {
                put(&mut a.input, Some(PathBuf::from(v)))
            }),
            Flag::value(None, "platform", "OS/ARCH[/VARIANT]", "read only those for it", |a, v| {
                put(&mut a.platform, Some(Platform::parse(v)?))
            }),
            Flag::switch(Some('q'), "quiet", "say nothing of the layers", |a, on| a.quiet = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn load(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&LOAD, words)? else { return Ok(0) };
    if let Some(operand) = operands.first() {
        return Err(refused(LOAD.usage(&format!("unexpected argument: {operand}"))));
    }
    let stdin = PathBuf::from("/dev/stdin");
    let file = match args.input {
        Some(path) => Some(path),
        None if io::stdin().is_terminal() => {
            return Err(refused(Failure::engine("requested load from stdin, but stdin is empty")));
        }
        // A file is read where it is, more than once.
        None => stdin.metadata().is_ok_and(|found| found.is_file()).then_some(stdin),
    };
    let board = Board::new(if args.quiet || !io::stdout().is_terminal() { To::Nothing } else { To::Stdout });
    let local = Local::open()?;
    let mut input = io::stdin();
    let archive = match &file {
        Some(path) => Archive::File(path),
        None => Archive::Stream(&mut input),
    };
    let loaded = local.store.load_archive(archive, args.platform.as_ref(), &Layers::new(&board, None));
    board.finish();
    let mut text = String::new();
    for image in loaded.map_err(failed)? {
        if image.names.is_empty() {
            text.push_str(&format!("Loaded image ID: {}\n", image.id));
        }
        image.names.iter().for_each(|name| text.push_str(&format!("Loaded image: {}\n", name.familiar())));
    }
    print(&text)
}

#[derive(Debug, Default)]
pub(crate) struct Import {
    changes: Vec<String>,
    message: String,
    platform: Option<Platform>,
}

pub(crate) static IMPORT: Command<Import> = Command {
    name: "import",
    operands: "[OPTIONS] FILE|- [NAME[:TAG]]",
    about: "\
Makes an image of a tar archive of a whole tree, packed or not, from a file or standard input, and prints its id.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(Some('c'), "change", "INSTRUCTION", "what a Dockerfile would say: 'CMD [\"sh\"]'", |a, v| {
                add(&mut a.changes, v.to_owned())
            }),
            Flag::value(Some('m'), "message", "TEXT", "what it is made for", |a, v| {
                put(&mut a.message, v.to_owned())
            }),
            Flag::value(None, "platform", "OS/ARCH[/VARIANT]", "what it runs on (default this host)", |a, v| {
                put(&mut a.platform, Some(Platform::parse(v)?))
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn import(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&IMPORT, words)? else { return Ok(0) };
    let (source, name) = match operands.as_slice() {
        [source] => (source, None),
        [source, name] => (source, Some(new_name(name)?)),
        [] => return Err(refused(IMPORT.usage("no archive given"))),
        [_, _, extra, ..] => return Err(refused(IMPORT.usage(&format!("unexpected argument: {extra}")))),
    };
    if source.starts_with("http://") || source.starts_with("https://") {
        return Err(refused(Failure::engine(format!(
            "{source}: not fetched here, pipe it into 'skiff import -'"
        ))));
    }
    let mut input: Box<dyn Read + Send> = match source.as_str() {
        "-" => Box::new(io::stdin()),
        path => Box::new(
            File::open(path)
                .map_err(|error| refused(os(&format!("open {}", Path::new(path).display()), &error)))?,
        ),
    };
    let message = match args.message.is_empty() {
        true => format!("Imported from {source}"),
        false => args.message,
    };
    let making = Making {
        changes: args.changes,
        message,
        created: rfc3339(now_ns()),
        platform: args.platform,
        ..Making::default()
    };
    let names: Vec<ImageName> = name.into_iter().collect();
    let id = Local::open()?.store.import(&mut input, &making, &names).map_err(failed)?;
    print(&format!("{id}\n"))
}
