//! `skiff pull`, and the pull that comes before a container of an image that is not here.

use std::sync::{Mutex, PoisonError};

use skiff_registry::{Access, Config, Registry};
use skiff_store::{Digest, ImageName, LayerEvent, Platform, Progress, RemoteError};

use super::local::{Local, failed};
use super::prefetched;
use super::progress::{Board, Status, To};
use crate::client::{print, refused, understand};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};

/// Of the flag `--tls-verify`: without it, files decide.
pub(crate) const TLS_VERIFY: &str =
    "false: take any certificate, and plain HTTP; true: never do, whatever files say";

#[derive(Debug, Default)]
pub(crate) struct Args {
    all_tags: bool,
    quiet: bool,
    platform: Option<Platform>,
    leaves_profiles: bool,
    tls_verify: Option<bool>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "pull",
    operands: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "\
Fetches an image from a registry. What has come of it when it is interrupted is not fetched again.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(
                Some('a'),
                "all-tags",
                "all tags that the registry has of the repository",
                |a, on| {
                    a.all_tags = on;
                },
            ),
            Flag::value(
                None,
                "platform",
                "OS/ARCH[/VARIANT]",
                "for another platform than this host's",
                |a, v| put(&mut a.platform, Some(Platform::parse(v)?)),
            ),
            Flag::value(
                None,
                "prefetch",
                "on|off",
                "whether prefetch profiles that the registry has are fetched (default on)",
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
    let to = if args.quiet { To::Nothing } else { To::Stdout };
    let local = Local::open()?;
    let registry = registry(args.tls_verify)?;
    if args.all_tags {
        return all(&local, &registry, &text, &name, &args, to);
    }
    if name.digest().is_none() && !has_tag(&text) && !args.quiet {
        print("Using default tag: latest\n")?;
    }
    pull(&local, &registry, &name, args.platform.as_ref(), to, !args.leaves_profiles)?;
    print(&format!("{name}\n"))
}

fn all(
    local: &Local,
    registry: &Registry,
    text: &str,
    name: &ImageName,
    args: &Args,
    to: To,
) -> Result<u8, Failure> {
    let wrong = |reason: String| refused(Failure::engine(reason));
    if name.digest().is_some() || has_tag(text) {
        return Err(wrong("tag can't be used with --all-tags/-a".into()));
    }
    let tags = registry.repository(name, Access::Pull).and_then(|repository| repository.tags());
    // Lists of referrers stand below tags made of digests.
    for tag in tags.map_err(elsewhere)?.into_iter().filter(|tag| !is_list_of_referrers(tag)) {
        let name = name.with_tag(&tag).map_err(|reason| wrong(format!("tag {tag:?}: {reason}")))?;
        pull(local, registry, &name, args.platform.as_ref(), to, !args.leaves_profiles)?;
    }
    print(&format!("{}\n", name.repository()))
}

pub(super) fn parse(text: &str) -> Result<ImageName, Failure> {
    let wrong = |reason: String| refused(Failure::engine(format!("invalid name '{text}': {reason}")));
    ImageName::parse(text).map_err(wrong)
}

/// Whether a name was written with a tag.
pub(super) fn has_tag(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'))
}

/// Whether it is the tag of what refers to a manifest, where a registry has no list of its own.
fn is_list_of_referrers(tag: &str) -> bool {
    tag.strip_prefix("sha256-").is_some_and(|hex| Digest::from_hex(hex).is_some())
}

/// Fetches `name`, with the prefetch profiles that the registry has if these are wanted, and tells of it in docker's words. Returns the image's id.
pub(super) fn pull(
    local: &Local,
    registry: &Registry,
    name: &ImageName,
    platform: Option<&Platform>,
    to: To,
    with_profiles: bool,
) -> Result<Digest, Failure> {
    let repository = registry.repository(name, Access::Pull).map_err(elsewhere)?;
    let board = Board::new(to);
    let which = name.digest().map_or_else(|| name.tag().unwrap_or_default().to_owned(), |it| it.to_string());
    let heading = format!("{which}: Pulling from {}", name.path());
    let host = Platform::host();
    let progress = Layers::new(&board, Some(heading));
    let pulled = local.store.pull(name, &repository, platform.unwrap_or(&host), &progress);
    if pulled.as_ref().is_ok_and(|pulled| pulled.is_new) {
        progress.speak();
    }
    board.finish();
    let pulled = pulled.map_err(failed)?;
    if with_profiles && pulled.is_new {
        prefetched::fetch(local, &repository, pulled.id);
    }
    board.line(&format!("Digest: {}", pulled.digest));
    let what = if pulled.is_new { "Downloaded newer image" } else { "Image is up to date" };
    board.line(&format!("Status: {what} for {}", name.familiar()));
    Ok(pulled.id)
}

/// Registries, as the caller's environment and files have them, and `--tls-verify`.
pub(super) fn registry(tls_verify: Option<bool>) -> Result<Registry, Failure> {
    let config = Config::from_environment().map_err(elsewhere)?;
    Ok(Registry::new(Config { tls_verify, ..config }))
}

/// What a registry refuses.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(super) fn elsewhere(error: RemoteError) -> Failure {
    refused(Failure::engine(error.to_string()))
}

/// Tells of what becomes of layers in docker's words.
pub(super) struct Layers<'a> {
    board: &'a Board,
    /// Said as soon as there is an image to pull.
    heading: Option<String>,
    /// What has not been said: nothing is, as long as all layers turn out to be here.
    quiet: Mutex<Quiet>,
}

#[derive(Default)]
struct Quiet {
    layers: Vec<Digest>,
    present: Vec<Digest>,
    is_over: bool,
}

impl<'a> Layers<'a> {
    pub(super) fn new(board: &'a Board, heading: Option<String>) -> Self {
        Self { board, heading, quiet: Mutex::default() }
    }

    /// Says what was left unsaid.
    fn speak(&self) {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if !quiet.is_over {
            quiet.is_over = true;
            // Of what is here already, nothing else is said.
            for layer in quiet.layers.iter().filter(|layer| !quiet.present.contains(layer)) {
                self.board.set(&short(*layer), Status::Said("Pulling fs layer".into()));
            }
            quiet.present.iter().for_each(|layer| self.board.done(&short(*layer), "Already exists"));
        }
    }
}

impl Progress for Layers<'_> {
    fn layers(&self, digests: &[Digest]) {
        if let Some(heading) = &self.heading {
            self.board.line(heading);
        }
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner).layers = digests.to_vec();
    }

    fn left_out(&self, digest: Digest, devices: u64, xattrs: u64) {
        let name = short(digest);
        let left_out = format!("{devices} device nodes and {xattrs} attributes");
        self.board.warn(&format!("skiff: layer {name}: left out for want of rights: {left_out}"));
    }

    fn layer(&self, digest: Digest, event: LayerEvent) {
        if event == LayerEvent::Present {
            let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
            quiet.present.push(digest);
            if quiet.is_over {
                self.board.done(&short(digest), "Already exists");
            }
            return;
        }
        self.speak();
        let name = short(digest);
        let say = |words: &str| self.board.set(&name, Status::Said(words.to_owned()));
        let count = |verb, done, total| self.board.set(&name, Status::Counted { verb, done, total });
        match event {
            LayerEvent::Present => {}
            LayerEvent::Waiting => say("Waiting"),
            LayerEvent::Downloading { done, total } => count("Downloading", done, total),
            LayerEvent::Retrying { attempt, reason } => {
                say(&format!("Retrying, attempt {attempt}: {}", skiff_runtime::OneLine(&reason)));
            }
            LayerEvent::Unpacking { done, total } => {
                say("Download complete");
                count("Extracting", done, total);
            }
            LayerEvent::Verified => say("Download complete"),
            LayerEvent::Complete => self.board.done(&name, "Pull complete"),
        }
    }
}

/// The first twelve digits.
pub(super) fn short(digest: Digest) -> String {
    digest.hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_seen_where_they_are() {
        for (text, expected) in [("a", false), ("a:1", true), ("h:5/a", false), ("h:5/a:1", true)] {
            assert_eq!(has_tag(text), expected, "{text}");
        }
    }
}
