//! Every command of `skiff`: by which name, and who carries it out. The overview and `--help` come from this table.

use std::collections::BTreeSet;
use std::ffi::OsString;

use crate::bench;
use crate::client::{attach, changes, daemon, exec, inspect, list, logs, run, start, stats, system};
use crate::failure::Failure;
use crate::harden;
use crate::help;
use crate::images::{self, account, archive, containers, history, pull, push, remove, system as disk, tag};
use crate::line::Rest;
use crate::print;
use crate::top;
use crate::words::Words;

/// A command.
struct Verb {
    /// As it is typed; two words have one space between them.
    name: &'static str,
    /// What it is about.
    on: On,
    /// One line, for the overview.
    summary: &'static str,
    run: fn(Rest<'_>) -> Result<u8, Failure>,
    help: fn() -> String,
}

/// What commands are about. As with docker, `container` or `image` may stand before what is about these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Containers,
    Images,
    Other,
}

/// A row of [`VERBS`].
macro_rules! verb {
    ($name:literal, $on:ident, $summary:literal, $run:expr, $command:expr) => {
        Verb { name: $name, on: On::$on, summary: $summary, run: $run, help: || help::command(&$command) }
    };
}

/// A row of a command with a small command line.
macro_rules! small {
    ($name:literal, $summary:literal, $run:path, $help:path) => {
        Verb {
            name: $name,
            on: On::Other,
            summary: $summary,
            run: |words| small($name, words, &mut |words| print(&$run(words)?)),
            help: || $help.to_owned(),
        }
    };
}

/// All of them, in the order of the overview.
#[rustfmt::skip] // a table
static VERBS: &[Verb] = &[
    verb!("run", Containers, "start a container, wait for it and pass its exit code on", run::run, crate::flags::RUN),
    verb!("create", Containers, "make a container", run::create, crate::flags::CREATE),
    verb!("start", Containers, "start containers", start::run, start::COMMAND),
    verb!("stop", Containers, "ask containers to stop, and kill those that do not", changes::stop, changes::STOP),
    verb!("restart", Containers, "stop containers and start them", changes::restart, changes::RESTART),
    verb!("kill", Containers, "send a signal to containers", changes::kill, changes::KILL),
    verb!("pause", Containers, "freeze containers", changes::pause, changes::PAUSE),
    verb!("unpause", Containers, "let frozen containers go on", changes::unpause, changes::UNPAUSE),
    verb!("rm", Containers, "remove containers", changes::remove, changes::REMOVE),
    verb!("rename", Containers, "give a container another name", changes::rename, changes::RENAME),
    verb!("wait", Containers, "wait for containers and print their exit codes", changes::wait, changes::WAIT),
    verb!("ps", Containers, "list containers", list::run, list::COMMAND),
    verb!("inspect", Containers, "tell everything about containers and images", inspect::run, inspect::COMMAND),
    verb!("stats", Containers, "show what containers use", stats::run, stats::COMMAND),
    verb!("trace", Containers, "show the system calls of a container", crate::trace::run, crate::trace::COMMAND),
    verb!("top", Containers, "show containers live, or the processes of one", top::run, top::COMMAND),
    verb!("logs", Containers, "show what a container has written", logs::run, logs::COMMAND),
    verb!("attach", Containers, "see what a container writes, and write to it", attach::run, attach::COMMAND),
    verb!("exec", Containers, "run one more process in a container", exec::run, exec::COMMAND),
    verb!("bench", Other, "tell in what two images or commands differ, and how sure that is", bench::run, bench::COMMAND),
    verb!("pull", Images, "fetch an image from a registry", pull::run, pull::COMMAND),
    verb!("push", Images, "send an image to its registry", push::run, push::COMMAND),
    verb!("images", Images, "list images", images::list::run, images::list::COMMAND),
    verb!("tag", Images, "give an image one more name", tag::run, tag::COMMAND),
    verb!("rmi", Images, "remove images, or names of them", remove::run, remove::COMMAND),
    verb!("history", Images, "show how containers ended, or how an image came to be", history::run, history::COMMAND),
    verb!("save", Images, "write images into an archive", archive::save, archive::SAVE),
    verb!("load", Images, "read images from an archive", archive::load, archive::LOAD),
    verb!("import", Images, "make an image of a tree of files", archive::import, archive::IMPORT),
    verb!("export", Containers, "write a container's files into an archive", containers::export, containers::EXPORT),
    verb!("commit", Containers, "make an image of what a container has changed", containers::commit, containers::COMMIT),
    verb!("diff", Containers, "show what a container has changed", containers::diff, containers::DIFF),
    verb!("search", Other, "look for images on a registry", account::search, account::SEARCH),
    verb!("login", Other, "prove a user to a registry", account::login, account::LOGIN),
    verb!("logout", Other, "forget a user of a registry", account::logout, account::LOGOUT),
    verb!("image inspect", Images, "tell everything about images", images::inspect::run, images::inspect::COMMAND),
    verb!("image prune", Images, "remove images that nobody needs", remove::prune, remove::PRUNE),
    verb!("container prune", Containers, "remove containers that do not run", disk::prune_containers, disk::PRUNE_CONTAINERS),
    verb!("system df", Other, "show what images and containers take of the disk", disk::df, disk::DF),
    verb!("system prune", Other, "remove what nobody needs", disk::prune, disk::PRUNE),
    verb!("system fsck", Other, "look for damage in the images, and repair it", disk::fsck, disk::FSCK),
    verb!("system pools", Other, "show what is made ahead, and its memory", system::pools, system::POOLS),
    small!("observe", "let containers be counted, whoever starts them by skiff or skiff-runtime", crate::observe::run, help::OBSERVE),
    small!("profile", "show what a container has cost the kernel so far, or does in a time to come", crate::profile::run, help::PROFILE),
    small!("prefetch", "show and remove what is known of images that is read ahead when they are started", crate::prefetch::run, help::PREFETCH),
    verb!("harden", Other, "make a policy of least privilege from recorded runs", harden::run, harden::COMMAND),
    verb!("version", Other, "show the versions of client and daemon", system::version, system::VERSION),
    verb!("daemon", Other, "be the daemon, or end it", daemon::run, daemon::COMMAND),
];

/// Other names of commands.
#[rustfmt::skip] // a table
const ALIASES: [(&str, &str); 7] = [
    ("ls", "ps"), ("list", "ps"), ("remove", "rm"),
    ("image ls", "images"), ("image list", "images"), ("image rm", "rmi"), ("image remove", "rmi"),
];

/// Carries out a command that has a small command line, or prints its help.
fn small(
    name: &'static str,
    words: Rest<'_>,
    run: &mut dyn FnMut(&mut Words) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let words: Vec<OsString> = words.collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        return print(&help::of(Some(name)));
    }
    run(&mut Words::new(name, words.into_iter())?)
}

/// What may stand before another word.
const GROUPS: [&str; 3] = ["container", "image", "system"];

/// Carries out the command `name`, if it is one of these.
pub(crate) fn command(name: &str, words: Rest<'_>) -> Option<Result<u8, Failure>> {
    if !GROUPS.contains(&name) {
        return find(name).map(|verb| (verb.run)(words));
    }
    let Some(second) = words.next() else {
        return Some(Err(Failure::engine(format!(
            "no command given after '{name}', see 'skiff {name} --help'"
        ))));
    };
    if second == "--help" || second == "-h" {
        return Some(print(&group(name)));
    }
    let whole = format!("{name} {}", second.to_string_lossy());
    let unknown = || Failure::engine(format!("unknown command: {whole}, see 'skiff {name} --help'"));
    Some(find(&whole).map_or_else(|| Err(unknown()), |verb| (verb.run)(words)))
}

/// The help of the command `name`, or of the commands before which it may stand.
pub(crate) fn help(name: &str) -> Option<String> {
    if GROUPS.contains(&name) {
        return Some(group(name));
    }
    find(name).map(|verb| (verb.help)())
}

/// The commands before which `group` may stand.
fn group(group: &str) -> String {
    let mut text = format!("Usage: skiff {group} COMMAND\n\nCommands:\n");
    let names = VERBS.iter().map(|verb| verb.name.rsplit(' ').next().unwrap_or_default());
    let all: BTreeSet<&str> =
        names.chain(ALIASES.map(|(alias, _)| alias.rsplit(' ').next().unwrap_or_default())).collect();
    for name in all {
        if let Some(verb) = find(&format!("{group} {name}")) {
            text.push_str(&format!("  {name:<15} {}\n", verb.summary));
        }
    }
    text
}

/// What there is, one line each.
pub(crate) fn overview() -> String {
    VERBS.iter().map(|verb| format!("  {:<15} {}\n", verb.name, verb.summary)).collect()
}

fn find(name: &str) -> Option<&'static Verb> {
    let other = |name: &str| ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, name)| *name);
    let is_called = |name: &str| VERBS.iter().find(|verb| verb.name == name);
    let own = other(name).map_or_else(|| is_called(name), is_called);
    let of = |on: On, name: &str| {
        is_called(other(name).unwrap_or(name)).filter(|verb| verb.on == on && !name.contains(' '))
    };
    own.or_else(|| match name.split_once(' ')? {
        ("container", name) => of(On::Containers, name),
        ("image", name) => of(On::Images, name).filter(|verb| !matches!(verb.name, "images" | "rmi")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_own_name_in_its_help() {
        for verb in VERBS {
            let help = (verb.help)();
            assert!(help.starts_with(&format!("Usage: skiff {} ", verb.name)), "{}: {help}", verb.name);
            assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
            assert!(VERBS.iter().filter(|other| other.name == verb.name).count() == 1, "{}", verb.name);
        }
        assert!(ALIASES.iter().all(|(alias, name)| find(name).is_some_and(|verb| verb.name != *alias)));
    }

    #[test]
    fn summaries_stand_in_one_column() {
        let help = help::of(None);
        for line in help.lines().filter(|line| line.starts_with("  ")) {
            assert!(line[..18].ends_with(' ') && !line[18..].starts_with(' '), "{line}");
        }
    }

    #[test]
    fn commands_have_docker_s_names() {
        let check = |name: &str, expected: &str| {
            assert_eq!(find(name).map(|verb| verb.name).unwrap_or_default(), expected, "{name}");
        };
        check("container ls", "ps");
        check("container inspect", "inspect");
        check("container remove", "rm");
        check("container pull", "");
        check("image ls", "images");
        check("image rm", "rmi");
        check("image inspect", "image inspect");
        check("image tag", "tag");
        check("image run", "");
        check("image images", "");
        check("prune", "");
        check("remove", "rm");
    }

    #[test]
    fn a_group_s_help_has_its_commands() {
        let lines = |name: &str| {
            help(name).unwrap_or_default().lines().skip(3).map(str::to_owned).collect::<Vec<_>>()
        };
        let names = |name: &str| -> Vec<String> {
            lines(name).iter().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
        };
        assert_eq!(names("system"), ["df", "fsck", "pools", "prune"]);
        let images = [
            "history", "import", "inspect", "list", "load", "ls", "prune", "pull", "push", "remove", "rm",
            "save", "tag",
        ];
        assert_eq!(names("image"), images);
        let containers = names("container");
        assert!(
            ["ls", "prune", "rm", "run"].iter().all(|name| containers.iter().any(|one| one == name)),
            "{containers:?}"
        );
        assert!(!containers.iter().any(|name| name == "pull" || name == "df"), "{containers:?}");
    }

    #[test]
    fn every_command_is_in_the_guide() {
        let guide = concat!(
            include_str!("../../docs/engine.md"),
            include_str!("../../docs/images.md"),
            include_str!("../../docs/bench.md"),
            include_str!("../../docs/harden.md"),
            include_str!("../../docs/trace.md"),
            include_str!("../../docs/observe.md"),
            include_str!("../../docs/profile.md"),
            include_str!("../../docs/prefetch.md")
        );
        for verb in VERBS {
            assert!(guide.contains(&format!("`skiff {}", verb.name)), "{}", verb.name);
        }
    }
}
