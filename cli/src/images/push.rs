//! `skiff push`.

use skiff_registry::{Packing, PushEvent, PushProgress, Pushed, push};
use skiff_store::{Digest, ImageName, Platform};

use super::local::{Local, failed};
use super::prefetched;
use super::progress::{Board, Status, To};
use super::pull::{TLS_VERIFY, elsewhere, has_tag, parse, registry, short};
use super::wanted::is_for;
use crate::client::{print, refused, understand};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};

#[derive(Debug, Default)]
pub(crate) struct Args {
    all_tags: bool,
    quiet: bool,
    packing: Packing,
    platform: Option<Platform>,
    leaves_profiles: bool,
    tls_verify: Option<bool>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "push",
    operands: "[OPTIONS] NAME[:TAG]",
    about: "\
Sends an image to the registry that its name says. What the registry has already is not sent.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "all-tags", "all tags of the repository that are here", |a, on| {
                a.all_tags = on;
            }),
            Flag::value(
                None,
                "compression",
                "gzip|zstd",
                "how layers are packed that the registry has not (default gzip)",
                |a, v| {
                    put(
                        &mut a.packing,
                        match v {
                            "gzip" => Packing::Gzip,
                            "zstd" => Packing::Zstd,
                            _ => return Err("neither gzip nor zstd".into()),
                        },
                    )
                },
            ),
            Flag::value(None, "platform", "OS/ARCH[/VARIANT]", "fail if it is for another", |a, v| {
                put(&mut a.platform, Some(Platform::parse(v)?))
            }),
            Flag::value(
                None,
                "prefetch",
                "on|off",
                "whether the prefetch profile of its own command is sent along (default on)",
                |a, v| put(&mut a.leaves_profiles, !super::switch(v)?),
            ),
            Flag::switch(Some('q'), "quiet", "print nothing but the name", |a, on| a.quiet = on),
            Flag::switch(None, "tls-verify", TLS_VERIFY, |a, on| a.tls_verify = Some(on)),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("disable-content-trust", None)],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    let text = super::one_image(&COMMAND, operands)?;
    let name = parse(&text)?;
    let wrong = |reason: &str| refused(Failure::engine(reason));
    if name.digest().is_some() {
        return Err(wrong("cannot push a digest reference"));
    }
    if args.all_tags && has_tag(&text) {
        return Err(wrong("tag can't be used with --all-tags/-a"));
    }
    let local = Local::open()?;
    let names = names(&local, &name, args.all_tags)?;
    for (name, id) in &names {
        is_for(&local, *id, &name.familiar(), args.platform.as_ref())?;
    }
    let board = Board::new(if args.quiet { To::Nothing } else { To::Stdout });
    if !args.all_tags && !has_tag(&text) {
        board.line("Using default tag: latest");
    }
    board.line(&format!("The push refers to repository [{}]", name.repository()));
    drop(board);
    for (name, id) in names {
        let pushed = one(&local, &name, id, &args)?;
        if !args.quiet {
            let tag = name.tag().unwrap_or_default();
            print(&format!("{tag}: digest: {} size: {}\n", pushed.digest, pushed.size_bytes))?;
        }
    }
    match (args.quiet, args.all_tags) {
        (false, _) => Ok(0),
        (true, false) => print(&format!("{name}\n")),
        (true, true) => print(&format!("{}\n", name.repository())),
    }
}

/// What is to be pushed: the name, or all that are in its repository, with the images that they mean.
fn names(local: &Local, name: &ImageName, all: bool) -> Result<Vec<(ImageName, Digest)>, Failure> {
    let mut names = Vec::new();
    for summary in local.store.images().map_err(failed)? {
        let is_meant = |other: &&ImageName| match all {
            true => other.repository() == name.repository(),
            false => *other == name,
        };
        names.extend(summary.names.iter().filter(is_meant).map(|name| (name.clone(), summary.id)));
    }
    names.sort();
    match (names.is_empty(), all) {
        (false, _) => Ok(names),
        (true, false) => Err(refused(Failure::engine(format!(
            "an image does not exist locally with the tag: {}",
            name.familiar_repository()
        )))),
        (true, true) => Err(refused(Failure::engine(format!(
            "no image of repository {} is here",
            name.familiar_repository()
        )))),
    }
}

fn one(local: &Local, name: &ImageName, id: Digest, args: &Args) -> Result<Pushed, Failure> {
    let board = Board::new(if args.quiet { To::Nothing } else { To::Stdout });
    let registry = registry(args.tls_verify)?;
    let pushed = push(&local.store, &registry, id, name, args.packing, &Push(&board));
    board.finish();
    let pushed = pushed.map_err(elsewhere)?;
    // It is there all the same.
    if let Err(error) = local.store.pushed(id, name, pushed.digest) {
        tracing::warn!("note the digest of {}: {error}", name.familiar());
    }
    if !args.leaves_profiles {
        prefetched::attach(local, &registry, id, name, pushed.digest);
    }
    Ok(pushed)
}

/// Tells of a push in docker's words.
struct Push<'a>(&'a Board);

impl PushProgress for Push<'_> {
    fn layers(&self, diff_ids: &[Digest]) {
        // As docker does it, the top one first.
        for layer in diff_ids.iter().rev() {
            self.0.set(&short(*layer), Status::Said("Preparing".into()));
        }
    }

    fn layer(&self, layer: Digest, event: PushEvent) {
        let name = short(layer);
        match event {
            PushEvent::Waiting => self.0.set(&name, Status::Said("Waiting".into())),
            PushEvent::Present => self.0.done(&name, "Layer already exists"),
            PushEvent::Mounted(from) => {
                let path = from.split_once('/').map_or(&*from, |(_, path)| path);
                self.0.done(&name, &format!("Mounted from {path}"));
            }
            PushEvent::Pushing { done, total } => {
                self.0.set(&name, Status::Counted { verb: "Pushing", done, total });
            }
            PushEvent::Pushed => self.0.done(&name, "Pushed"),
        }
    }
}
