//! `skiff harden`: from recorded runs to a policy, and whether a program does as well under it. docs/harden.md.

mod verify;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use skiff_observe::harden::{self, Engine, MAX_BYTES, Needs, Policy, Recorded, Root, Terms};

use crate::client::{print, refused};
use crate::failure::Failure;
use crate::help;
use crate::line::{Command, Flag, Order, Rest, Section, add, put};
use crate::profile::size;
use crate::values::{Reason, cause, integer};

/// What `skiff harden` was asked for.
#[derive(Debug, Default)]
pub(crate) struct Args {
    output: Option<PathBuf>,
    engines: Vec<Engine>,
    terms: Terms,
    accept_losses: bool,
    verify: bool,
    json: bool,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "harden",
    operands: "[OPTIONS] PROFILE… | --verify DIR | --verify PROFILE… -- [OPTIONS] IMAGE [COMMAND…]",
    about: "\
Makes a policy of least privilege from runs that 'skiff run --profile=PROFILE' has recorded: a system call filter,
capabilities, a read-only root and the places to write to, devices and limits, as files for skiff, docker, podman and
Kubernetes. What no run has used is taken away.

With --verify a program is run under the policy – the recorded command, or what stands after '--' – and what it is
refused is told. The exit code is 1 if it was refused anything or did not end as it did before.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::bytes(Some('o'), "output", "DIR", "write the files there; it is made if missing", |a, v| {
                put(&mut a.output, Some(PathBuf::from(v)))
            }),
            Flag::value(None, "for", "ENGINE", "only for skiff, docker, podman or kubernetes", |a, v| {
                add(&mut a.engines, engine(v)?)
            }),
            Flag::value(None, "margin", "PERCENT", "put limits so far above the peaks (default 50)", |a, v| {
                let percent = integer(v, 0..=10_000)?;
                put(&mut a.terms.margin_percent, u32::try_from(percent).unwrap_or_default())
            }),
            Flag::switch(None, "accept-losses", "go on although events are missing from a profile", |a, on| {
                a.accept_losses = on;
            }),
            Flag::switch(None, "verify", "run under the policy and tell what is refused", |a, on| a.verify = on),
            Flag::value(None, "format", "text|json", "how to print the policy, or what was refused", |a, v| match v {
                "text" | "json" => put(&mut a.json, v == "json"),
                _ => Err("neither text nor json".into()),
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

fn engine(name: &str) -> Result<Engine, Reason> {
    Engine::named(name).ok_or_else(|| "neither skiff, docker, podman nor kubernetes".into())
}

/// `skiff harden …`.
pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let mut words: Vec<OsString> = words.collect();
    let after = words.iter().position(|word| word == "--").map(|at| words.split_off(at));
    if words.iter().any(|word| word == "--verify") {
        // It starts this program anew: before anything is read.
        skiff_runtime::seal::seal(c"skiff")?;
    }
    let mut args = Args::default();
    let Some(operands) = COMMAND.parse(&mut args, &mut words.into_iter())? else {
        return print(&help::command(&COMMAND));
    };
    let files: Vec<PathBuf> = operands.into_iter().map(PathBuf::from).collect();
    if files.is_empty() {
        return Err(refused(COMMAND.usage("no profile given")));
    }
    let after = after.map(|words| words.into_iter().skip(1).collect());
    match (args.verify, after) {
        (true, after) => verify::verify(&args, &files, after),
        (false, None) => make(&args, &files),
        (false, Some(_)) => Err(refused(COMMAND.usage("a command to run needs --verify"))),
    }
}

fn make(args: &Args, files: &[PathBuf]) -> Result<u8, Failure> {
    let (runs, profiles) = read_all(files)?;
    let policy = policy(args, &runs)?;
    if let Some(directory) = &args.output {
        write_all(args, &policy, directory)?;
        write_profiles(&profiles, directory)?;
    }
    print(&if args.json { harden::document(&policy) } else { summary(&policy, args.output.as_deref()) })
}

/// The profiles in `files`, and their bytes: a file may be a pipe, or one of those that are written.
fn read_all(files: &[PathBuf]) -> Result<(Vec<Recorded>, Vec<Vec<u8>>), Failure> {
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<(Recorded, Vec<u8>), Failure> {
    let bytes = read_bytes(file).map_err(|error| os("read", file, &error))?;
    let wrong = |reason| wrong(format!("{} is no profile: {reason}", file.display()));
    Ok((Recorded::parse(&bytes).map_err(wrong)?, bytes))
}

/// No more than a profile may have, whatever the file is.
fn read_bytes(file: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn policy(args: &Args, runs: &[Recorded]) -> Result<Policy, Failure> {
    let needs = Needs::of(runs, args.accept_losses).map_err(|reason| {
        let hint = if reason.contains("missing") { " (--accept-losses goes on)" } else { "" };
        wrong(format!("{reason}{hint}"))
    })?;
    Policy::of(needs, args.terms).map_err(wrong)
}

/// Writes the policy's files below `directory`, and removes those of engines that it is not for.
fn write_all(args: &Args, policy: &Policy, directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| os("make", directory, &error))?;
    let place = directory.canonicalize().map_err(|error| os("look at", directory, &error))?;
    let text = place.to_str().ok_or_else(|| wrong(format!("{} is not valid UTF-8", place.display())))?;
    let engines = if args.engines.is_empty() { &Engine::ALL } else { args.engines.as_slice() };
    let files = harden::files(policy, engines, text).map_err(wrong)?;
    files.iter().try_for_each(|file| write(&place, &file.path, file.content.as_bytes()))?;
    let others: Vec<Engine> = Engine::ALL.into_iter().filter(|engine| !engines.contains(engine)).collect();
    let stale = harden::files(policy, &others, text).map_err(wrong)?;
    stale
        .iter()
        .filter(|file| file.path.contains('/'))
        .try_for_each(|file| remove(&place.join(&file.path)))?;
    for engine in others {
        // It stays if there is something else in it.
        let _left = fs::remove_dir(place.join(engine.name()));
    }
    Ok(())
}

/// Writes the profiles behind a policy, for it to be verified by, and removes those behind the one before it.
fn write_profiles(profiles: &[Vec<u8>], directory: &Path) -> Result<(), Failure> {
    for (number, bytes) in profiles.iter().enumerate() {
        write(directory, &format!("profiles/{}.json", number + 1), bytes)?;
    }
    let place = directory.join("profiles");
    let entries = fs::read_dir(&place).map_err(|error| os("read", &place, &error))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
        if number.is_some_and(|number: usize| !(1..=profiles.len()).contains(&number)) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(os("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// Writes one file, by rename: whoever reads it finds the old one or the new one.
fn write(directory: &Path, file: &str, content: &[u8]) -> Result<(), Failure> {
    let path = directory.join(file);
    let fail = |error: io::Error| os("write", &path, &error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::write(&draft, content).and_then(|()| fs::rename(&draft, &path));
    written.map_err(|error| {
        let _gone = fs::remove_file(&draft);
        fail(error)
    })
}

/// The policy for people.
fn summary(policy: &Policy, directory: Option<&Path>) -> String {
    let needs = &policy.needs;
    let list = |names: &mut dyn Iterator<Item = &String>| {
        let names: Vec<&str> = names.map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let mut text = format!("recorded runs    {}\n", needs.runs);
    text += &format!("system calls     {}\n", needs.calls.len());
    let kept = list(&mut policy.capabilities.iter());
    let dropped = needs.held.iter().filter(|name| !policy.capabilities.contains(*name)).count();
    text += &format!("capabilities     {kept} ({dropped} dropped)\n");
    let root = match &policy.root {
        Root::ReadOnly => "read-only".to_owned(),
        Root::Writable(reason) => format!("writable: {reason}"),
    };
    text += &format!("root             {root}\n");
    for directory in &policy.writable {
        let kind = if directory.filled { "volume, with the image's files" } else { "memory" };
        text += &format!("writable         {} ({kind})\n", crate::format::plain(&directory.path));
    }
    let limits = &policy.limits;
    let told =
        |limit: Option<u64>, show: &dyn Fn(u64) -> String| limit.map_or_else(|| "none".to_owned(), show);
    text += &format!("memory           {}\n", told(limits.memory_bytes, &size));
    text += &format!("processes        {}\n", told(limits.tasks, &|tasks| tasks.to_string()));
    text += &format!("open files       {}\n", told(limits.descriptors, &|most| most.to_string()));
    for note in &needs.notes {
        text += &format!("note             {}\n", crate::format::plain(note));
    }
    if let Some(directory) = directory {
        text += &format!("written to       {}\n", directory.display());
    }
    text
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure { code: 1, message: message.into() }
}

fn os(verb: &str, path: &Path, error: &io::Error) -> Failure {
    wrong(format!("{verb} {}: {}", path.display(), cause(error)))
}
