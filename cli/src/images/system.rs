//! `skiff system df`, `skiff system prune`, `skiff container prune` and `skiff system fsck`.

use serde_json::{Value, json};
use skiff_engine::protocol::{Reply, Request};
use skiff_engine::record::Records;
use skiff_engine::{Record, document};
use skiff_store::Usage;

use super::containers::written_bytes;
use super::documents;
use super::filter::{Filters, PRUNE as KEYS};
use super::local::{Local, failed};
use super::rows::{self, Style};
use crate::client::{self, ask, now_ns, print, refused, report, template, understand};
use crate::failure::Failure;
use crate::format::units::decimal;
use crate::format::{Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, add, put};

#[derive(Debug, Default)]
pub(crate) struct Df {
    verbose: bool,
    format: Option<String>,
}

pub(crate) static DF: Command<Df> = Command {
    name: "system df",
    operands: "[OPTIONS]",
    about: "\
Shows what images and containers take of the disk. Layers that several images have count once.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(
                None,
                "format",
                "FORMAT",
                "table, json, or a template of Go's: '{{.Type}} {{.Size}}'",
                |a, v| put(&mut a.format, Some(v.to_owned())),
            ),
            Flag::switch(Some('v'), "verbose", "of each image and container", |a, on| a.verbose = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

/// The usual table.
const USUAL: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";

/// Those of `--verbose`.
const IMAGES: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINERS: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";

pub(crate) fn df(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&DF, words)? else { return Ok(0) };
    nothing(&DF, &operands)?;
    if args.verbose && args.format.is_some() {
        return Err(refused(Failure::engine("--verbose does not go with --format")));
    }
    let listing = Listing::parse(args.format.as_deref(), USUAL).map_err(template)?;
    let local = Local::open()?;
    let usage = local.store.usage().map_err(failed)?;
    let containers = containers(&local)?;
    if args.verbose {
        return print(&verbose(&local, &usage, &containers)?);
    }
    let rows = sums(&usage, &containers);
    let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    let names = json!({
        "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
    });
    print(&listing.print(&rows, &names).map_err(template)?)
}

/// Containers with what they have written, in bytes.
fn containers(local: &Local) -> Result<Vec<(Record, u64)>, Failure> {
    let wrong = |error: std::io::Error| refused(client::os("read the containers' records", &error));
    let records = Records::open(&local.roots.state).map_err(wrong)?;
    let sized = |record: Record| {
        let bytes = written_bytes(&records.directory(&record.id));
        (record, bytes)
    };
    Ok(records.look().map_err(wrong)?.into_iter().map(sized).collect())
}

fn sums(usage: &Usage, containers: &[(Record, u64)]) -> Vec<Value> {
    let row = |kind: &str, total: usize, active: usize, bytes: u64, reclaimable: u64| {
        let percent = (reclaimable * 100).checked_div(bytes).map_or(String::new(), |it| format!(" ({it}%)"));
        json!({
            "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(), "Size": decimal(bytes),
            "Reclaimable": format!("{}{percent}", decimal(reclaimable)),
        })
    };
    let live = |record: &Record| record.state.is_live();
    let of = |wanted: bool| containers.iter().filter(move |(record, _)| live(record) == wanted);
    let stopped: u64 = of(false).map(|(_, bytes)| bytes).sum();
    let written: u64 = containers.iter().map(|(_, bytes)| bytes).sum();
    let cached = usage.cached_bytes + usage.partial_bytes;
    let reclaimable = usage.cached_reclaimable_bytes + usage.partial_bytes;
    vec![
        row("Images", usage.images.len(), usage.active, usage.bytes, usage.reclaimable_bytes),
        row("Containers", containers.len(), of(true).count(), written, stopped),
        row("Local Volumes", 0, 0, 0, 0),
        row("Build Cache", 0, 0, 0, 0),
        row("Layer Cache", 0, 0, cached, reclaimable),
    ]
}

fn verbose(local: &Local, usage: &Usage, containers: &[(Record, u64)]) -> Result<String, Failure> {
    let style = Style { no_trunc: false, digests: false, now_ns: now_ns() };
    let mut images = Vec::new();
    for image in &usage.images {
        let mut summary = documents::summary(&local.known(image.summary.clone())?);
        summary["Size"] = (image.shared_bytes + image.unique_bytes).into();
        summary["SharedSize"] = image.shared_bytes.into();
        summary["UniqueSize"] = image.unique_bytes.into();
        summary["Containers"] = image.containers.into();
        images.extend(rows::rows(&summary, style));
    }
    let row = |(record, bytes): &(Record, u64)| {
        let mut row = client::rows::row(&document::summary(record), style.now_ns, false);
        row["Size"] = decimal(*bytes).into();
        row
    };
    let containers: Vec<Value> = containers.iter().map(row).collect();
    let table = |usual: &str, rows: &[Value], names: &Value| {
        let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
        Listing::parse(None, usual).and_then(|listing| listing.print(&rows, names)).map_err(template)
    };
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLayer cache usage: {}\nBroken off downloads: {}\n\
         Documents and what gives layers again: {}\n",
        table(IMAGES, &images, &rows::names())?,
        table(CONTAINERS, &containers, &client::rows::names())?,
        decimal(usage.cached_bytes),
        decimal(usage.partial_bytes),
        decimal(usage.other_bytes),
    ))
}

#[derive(Debug, Default)]
pub(crate) struct Prune {
    all: bool,
    force: bool,
    filters: Vec<String>,
}

const FORCE: Flag<Prune> = Flag::switch(Some('f'), "force", "do not ask", |a, on| a.force = on);

const FILTER: Flag<Prune> = Flag::value(None, "filter", "KEY=VALUE", "by label, label! and until", |a, v| {
    add(&mut a.filters, v.to_owned())
});

pub(crate) static PRUNE: Command<Prune> = Command {
    name: "system prune",
    operands: "[OPTIONS]",
    about: "\
Removes containers that do not run, images that have no name and that no container uses, and what is left of pulls that
were broken off.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "all", "all images that no container uses", |a, on| a.all = on),
            FILTER,
            FORCE,
            Flag::switch(None, "volumes", "accepted: anonymous volumes go with their containers", |_, _| {}),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) static PRUNE_CONTAINERS: Command<Prune> = Command {
    name: "container prune",
    operands: "[OPTIONS]",
    about: "\
Removes containers that do not run.
",
    sections: &[Section { title: "Options", flags: &[FILTER, FORCE] }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn prune(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&PRUNE, words)? else { return Ok(0) };
    nothing(&PRUNE, &operands)?;
    let filters = filters(&args)?;
    let images = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let warning = format!(
        "WARNING! This will remove:\n  - all stopped containers\n  - {images}\n  - what is left of pulls that were broken off\n"
    );
    if !args.force && !super::confirmed(&warning)? {
        return Ok(0);
    }
    let local = Local::open()?;
    let (mut text, freed, errors) = remove_containers(&local, &filters)?;
    let pruned = local.prune(args.all, &filters)?;
    text.push_str(&pruned.section());
    print(&format!("{text}Total reclaimed space: {}\n", decimal(freed + pruned.freed_bytes)))?;
    Ok(report(&errors))
}

pub(crate) fn prune_containers(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&PRUNE_CONTAINERS, words)? else { return Ok(0) };
    nothing(&PRUNE_CONTAINERS, &operands)?;
    let filters = filters(&args)?;
    if !args.force && !super::confirmed("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let (text, freed, errors) = remove_containers(&Local::open()?, &filters)?;
    print(&format!("{text}Total reclaimed space: {}\n", decimal(freed)))?;
    Ok(report(&errors))
}

fn filters(args: &Prune) -> Result<Filters, Failure> {
    let (mut filters, now_ns) = (Filters::default(), now_ns());
    let added = args.filters.iter().try_for_each(|word| filters.add(word, KEYS, now_ns));
    added.map(|()| filters).map_err(|reason| refused(Failure::engine(reason)))
}

/// Removes containers that do not run; what is to be printed, the bytes that they had, and what could not be done.
fn remove_containers(local: &Local, filters: &Filters) -> Result<(String, u64, Vec<String>), Failure> {
    let none = |_: &str| Ok(0);
    let is_meant = |record: &Record| {
        let summary = document::summary(record);
        // What is said of dangling images is of no concern here.
        let summary =
            json!({ "CreatedNs": summary["CreatedNs"], "Labels": summary["Labels"], "RepoTags": ["-"] });
        let stands = matches!(record.state.word(), "created" | "exited" | "dead");
        stands && filters.select(vec![summary], &none).is_ok_and(|fitting| !fitting.is_empty())
    };
    let stopped: Vec<(Record, u64)> =
        containers(local)?.into_iter().filter(|(record, _)| is_meant(record)).collect();
    if stopped.is_empty() {
        return Ok((String::new(), 0, Vec::new()));
    }
    let ids = stopped.iter().map(|(record, _)| record.id.clone()).collect();
    match ask(&Request::Remove { containers: ids, force: false })? {
        Reply::Done { names, errors } => {
            let freed =
                stopped.iter().filter(|(record, _)| names.contains(&record.id)).map(|(_, bytes)| bytes);
            let text = match names.is_empty() {
                true => String::new(),
                false => format!("Deleted Containers:\n{}\n", client::lines(&names)),
            };
            Ok((text, freed.sum(), errors))
        }
        other => Err(client::unexpected(&other)),
    }
}

#[derive(Debug, Default)]
pub(crate) struct Fsck {
    repair: bool,
}

pub(crate) static FSCK: Command<Fsck> = Command {
    name: "system fsck",
    operands: "[OPTIONS]",
    about: "\
Reads every byte of the images that are here and says what is damaged, a line each. Exits with 1 if something is, and
stays so.
",
    sections: &[Section {
        title: "Options",
        flags: &[Flag::switch(
            None,
            "repair",
            "take damaged layers away, so that a pull brings them again; put right what can be",
            |a, on| a.repair = on,
        )],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn fsck(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&FSCK, words)? else { return Ok(0) };
    nothing(&FSCK, &operands)?;
    let local = Local::open()?;
    if args.repair {
        client::forget_image(&local.roots, None);
    }
    let findings = local.store.check(args.repair).map_err(failed)?;
    let line = |finding: &skiff_store::Finding| {
        format!("{}{}\n", finding.what, if finding.is_repaired { ": repaired" } else { "" })
    };
    print(&findings.iter().map(line).collect::<String>())?;
    Ok(u8::from(findings.iter().any(|finding| !finding.is_repaired)))
}

fn nothing<A>(command: &Command<A>, operands: &[String]) -> Result<(), Failure> {
    match operands.first() {
        Some(operand) => Err(refused(command.usage(&format!("unexpected argument: {operand}")))),
        None => Ok(()),
    }
}
