//! `skiff rmi` and `skiff image prune`.

use skiff_store::{Error, Removed, Summary};

use super::filter::{self, Filters};
use super::local::{Local, failed};
use super::{documents, some_images};
use crate::client::{forget_image, now_ns, print, refused, report, understand};
use crate::failure::Failure;
use crate::format::units::decimal;
use crate::line::{Command, Flag, Order, Rest, Section, add};

#[derive(Debug, Default)]
pub(crate) struct Args {
    force: bool,
    all: bool,
    filters: Vec<String>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "rmi",
    operands: "[OPTIONS] IMAGE…",
    about: "\
Takes a name away from an image, and the image with its last name. An image that is called by its id is removed with all
its names. What containers use stays.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(
                Some('f'),
                "force",
                "also if it has several names, or a container that does not run uses it",
                |a, on| a.force = on,
            ),
            Flag::switch(None, "no-prune", "accepted: images have no untagged parents here", |_, _| {}),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("platform", None)],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, images)) = understand(&COMMAND, words)? else { return Ok(0) };
    some_images(&COMMAND, &images)?;
    let local = Local::open()?;
    let (mut errors, mut is_fatal) = (Vec::new(), false);
    for image in images {
        match local.remove(&image, args.force) {
            Ok(removed) => drop(print(&lines(&removed, "Untagged", "Deleted"))?),
            Err(error) => {
                is_fatal |= !matches!(error, Error::NoSuchImage { .. });
                errors.push(error.to_string());
            }
        }
    }
    let code = report(&errors);
    // What is to be gone and is not there is said, and is no failure.
    Ok(if args.force && !is_fatal { 0 } else { code })
}

/// What became of images, a line each.
pub(super) fn lines(removed: &[Removed], untagged: &str, deleted: &str) -> String {
    let line = |removed: &Removed| match removed {
        Removed::Untagged(name) => format!("{untagged}: {}\n", name.familiar()),
        Removed::Deleted(id) => format!("{deleted}: {id}\n"),
    };
    removed.iter().map(line).collect()
}

pub(crate) static PRUNE: Command<Args> = Command {
    name: "image prune",
    operands: "[OPTIONS]",
    about: "\
Removes images that have no name and that no container uses, and what is left of pulls that were broken off.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "all", "all images that no container uses", |a, on| a.all = on),
            Flag::value(None, "filter", "KEY=VALUE", "by label, label! and until", |a, v| {
                add(&mut a.filters, v.to_owned())
            }),
            Flag::switch(Some('f'), "force", "do not ask", |a, on| a.force = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn prune(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&PRUNE, words)? else { return Ok(0) };
    if let Some(operand) = operands.first() {
        return Err(refused(PRUNE.usage(&format!("unexpected argument: {operand}"))));
    }
    let now_ns = now_ns();
    let mut filters = Filters::default();
    let added = args.filters.iter().try_for_each(|word| filters.add(word, filter::PRUNE, now_ns));
    added.map_err(|reason| refused(Failure::engine(reason)))?;
    let what = match args.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    if !args.force && !super::confirmed(&format!("WARNING! This will remove {what}."))? {
        return Ok(0);
    }
    let local = Local::open()?;
    let pruned = local.prune(args.all, &filters)?;
    print(&pruned.text())
}

/// What a `prune` has removed.
#[derive(Debug, Default)]
pub(super) struct Pruned {
    pub(super) removed: Vec<Removed>,
    pub(super) freed_bytes: u64,
}

impl Pruned {
    pub(super) fn text(&self) -> String {
        format!("{}Total reclaimed space: {}\n", self.section(), decimal(self.freed_bytes))
    }

    /// Without the sum.
    pub(super) fn section(&self) -> String {
        match self.removed.is_empty() {
            true => String::new(),
            false => format!("Deleted Images:\n{}\n", lines(&self.removed, "untagged", "deleted")),
        }
    }
}

impl Local {
    /// Removes what `text` means, by docker's rules.
    fn remove(&self, text: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let found = self.store.find(text)?;
        forget_image(&self.roots, Some(&found.id.to_string()));
        self.store.remove(text, force)
    }

    /// Removes images without a name, or `all`, that fit `filters` and that no container uses; and what else nobody needs.
    pub(super) fn prune(&self, all: bool, filters: &Filters) -> Result<Pruned, Failure> {
        let all = all || filters.dangling() == Some(false);
        let fits = |summary: &Summary| {
            let summary = self.known(summary.clone()).map(|known| documents::summary(&known))?;
            let none = |_: &str| Ok(0);
            let fitting = filters.select(vec![summary], &none).unwrap_or_default();
            Ok::<bool, Failure>(!fitting.is_empty())
        };
        forget_image(&self.roots, None);
        let collected = self
            .store
            .collect(&|summary| (all || summary.names.is_empty()) && fits(summary).unwrap_or(false))
            .map_err(failed)?;
        Ok(Pruned { removed: collected.removed, freed_bytes: collected.bytes })
    }
}
