//! What `--help` prints, laid out from the table of flags.

use crate::flags::{Flag, SECTIONS, Takes};

/// `skiff --help`.
pub(crate) const OVERVIEW: &str = "\
skiff runs programs in containers and shows what they cost the kernel.

Usage: skiff [--debug] COMMAND

Commands:
  run          start a container, wait for it and pass its exit code on
  observe      let containers be counted, whoever starts them by skiff or skiff-runtime
  stats        show what containers that are counted are doing
  profile      show what a container that is counted has cost the kernel so far

Options:
  --debug      log what skiff does to standard error, or as SKIFF_LOG=trace|debug|info says
  --help       show this help; 'skiff COMMAND --help' shows that of a command
  --version    show the version
";

const RUN: &str = "\
Usage: skiff run [OPTIONS] IMAGE [COMMAND [ARGUMENT…]]

Starts a container from IMAGE, waits for it and exits with its code (125: skiff failed, 126: the command cannot
be invoked, 127: it was not found, 128+n: killed by signal n).

IMAGE is one of
  host                        the host's own programs, below a private, throw-away overlay
  rootfs:DIR                  a directory with a root file system
  oci:DIR[:TAG]               an OCI image layout
  oci-archive:FILE[:TAG]      the same as a tar file
  docker-archive:FILE[:TAG]   what 'docker save' writes
";

/// `skiff observe --help`.
const OBSERVE: &str = "\
Usage: skiff observe [on [--slots NUMBER] | off]

Loads the eBPF programs and leaves them on the host, pinned below /sys/fs/bpf/skiff, without a process that stays.
From then on each container that is started by skiff, or by any engine through skiff-runtime, is counted from its
first instruction on. Without an argument: shows whether it is on, and what it costs.

  on                                load and attach the programs; mounts bpf at /sys/fs/bpf if it is not there
      --slots NUMBER                count so many containers at once (default 16); more run uncounted
  off                               remove everything that was left; what was counted is lost
";

/// `skiff stats --help`.
const STATS: &str = "\
Usage: skiff stats [--no-stream] [--format text|json] [CONTAINER…]

Shows, second by second, what the containers that are counted are doing, of whichever engine: 'skiff observe on' first.

      --format text|json            a table, or one JSON object per container and line
      --no-stream                   show one second, then exit
";

/// `skiff profile --help`.
const PROFILE: &str = "\
Usage: skiff profile CONTAINER [--format text|json]

Shows what a container that is counted has cost the kernel since its first instruction, while it runs or when it has
ended and not been deleted: 'skiff observe on' first. CONTAINER is its id, or the beginning of it.

      --format text|json            a report, or what docs/profile.schema.json describes
";

/// The help of a command, or of all.
pub(crate) fn of(command: Option<&str>) -> String {
    match command {
        Some("run") => run(),
        Some("observe") => OBSERVE.to_owned(),
        Some("stats") => STATS.to_owned(),
        Some("profile") => PROFILE.to_owned(),
        _ => OVERVIEW.to_owned(),
    }
}

/// Help texts start in this column.
const COLUMN: usize = 36;

/// `skiff run --help`.
pub(crate) fn run() -> String {
    let mut text = String::from(RUN);
    for section in SECTIONS {
        text.push_str(&format!("\n{}:\n", section.title));
        for flag in section.flags {
            text.push_str(&line(flag));
        }
    }
    text
}

/// One flag: its names and value, then its help, on a line of its own if the names are long.
fn line(flag: &Flag) -> String {
    let mut line = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.long),
        None => format!("      --{}", flag.long),
    };
    match flag.takes {
        Takes::Nothing(_) => {}
        Takes::Value(placeholder, _) | Takes::Bytes(placeholder, _) => line += &format!(" {placeholder}"),
        Takes::Optional(placeholder, _) => line += &format!("[={placeholder}]"),
    }
    if line.chars().count() + 2 > COLUMN {
        line += &format!("\n{:COLUMN$}{}\n", "", flag.help);
        return line;
    }
    format!("{line:COLUMN$}{}\n", flag.help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    #[test]
    fn every_flag_is_in_the_help_on_lines_of_a_terminal() {
        let help = run();
        for flag in flags::all() {
            assert!(help.contains(&format!("--{}", flag.long)), "{}", flag.long);
            assert!(help.contains(flag.help), "{}", flag.long);
        }
        for line in help.lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
    }

    #[test]
    fn every_flag_is_in_the_guide() {
        let guide = include_str!("../../docs/run.md");
        for flag in flags::all() {
            let name = flag
                .short
                .map_or_else(|| format!("`--{}", flag.long), |short| format!("`-{short}`/`--{}`", flag.long));
            assert!(guide.contains(&name), "{name}");
        }
    }

    #[test]
    fn flags_show_their_short_form_and_value() {
        let help = run();
        for expected in [
            "  -i, --interactive                 pass standard input on",
            "      --name NAME                   name the container",
            "      --profile[=FILE]              report",
            "  -v, --volume [SRC:]DST[:OPTIONS]  bind",
        ] {
            assert!(help.contains(expected), "{expected}\n{help}");
        }
    }
}
