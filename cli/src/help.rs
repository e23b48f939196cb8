//! What `--help` prints, laid out from the table of flags.

use crate::line::{Command, Flag, Takes};
use crate::verbs;

/// `skiff --help`, around the commands of the client.
const OVERVIEW: [&str; 2] = [
    "\
skiff runs programs in containers and shows what they cost the kernel.

Usage: skiff [--debug] COMMAND

Commands:
",
    "
Options:
  --debug         log what skiff does to standard error, or as SKIFF_LOG=trace|debug|info says
  --help          show this help; 'skiff COMMAND --help' shows that of a command
  --version       show the version
",
];

/// `skiff observe --help`.
pub(crate) const OBSERVE: &str = "\
Usage: skiff observe [--format text|json]
       skiff observe on [PROBE[,PROBE…]] [--slots NUMBER]
       skiff observe off
       skiff observe show [CONTAINER] [--no-trunc] [--format text|json]

Loads eBPF programs and leaves them on the host, pinned below /sys/fs/bpf/skiff, without a process that stays.
From then on each container that is started by skiff, or by any engine through skiff-runtime, is counted from its
first instruction on. Without a verb: shows what is on, and what it costs.

  on                                load and attach the programs; mounts bpf at /sys/fs/bpf if it is not there. PROBE is
                                      syscalls   system calls, faults and so on, for 'skiff profile' and 'skiff stats'
                                                 (the default)
                                      run-queue  waiting for a CPU and for whom, and sleeping
                                      block      how long block devices take
                                      net        bytes and packets of sockets
                                      tcp        connections, segments sent again, round trips
      --slots NUMBER                count so many containers at once (default 16); more run uncounted
  off                               remove everything that was left; what was counted is lost
  show                              what run-queue, block, net and tcp have counted, and who waited for whom; of one
                                    container: with its histograms
      --no-trunc                    whole ids rather than names
      --format text|json            a report, or what docs/observe.md describes
";

/// `skiff profile --help`.
pub(crate) const PROFILE: &str = "\
Usage: skiff profile CONTAINER [--format text|json]
       skiff profile CONTAINER --for TIME [--files] [--stacks[=HZ]] [--output FILE|DIR] [--format text|json]

Shows what a container that is counted has cost the kernel since its first instruction, while it runs or when it has
ended and not been deleted: 'skiff observe on' first. CONTAINER is its name, its id, or the beginning of that.

With --for, shows what any container that runs does in the time to come. Nothing has to
be switched on before, and nothing is left. SIGINT ends it early, and shows what there is until then.

      --for TIME                    count for so long: 10s, 1m30s
      --files                       list processes, opens, and which parts of files are used
      --stacks[=HZ]                 sample what runs, so often per second of CPU time (default 99)
  -o, --output FILE|DIR             write to FILE, once more for several, by the end of its name: .json (all of it),
                                    .svg (flame graph), .folded, .pb.gz (pprof), .perfetto-trace; to DIR all there is
      --format text|json            a report, or what docs/profile.schema.json (docs/profile.md with --for) describes
";

/// `skiff prefetch --help`.
pub(crate) const PREFETCH: &str = "\
Usage: skiff prefetch [ls | show IMAGE [CLASS] | export IMAGE [CLASS] | import IMAGE [FILE] | rm IMAGE [CLASS] |
                       rm --all]

What containers of an image use of its files until they are ready is recorded once for each class of commands, and read
ahead when one is started and the page cache is cold. IMAGE is an image's id, or the beginning of it; CLASS a command as
'skiff prefetch ls' shows it. See --prefetch of 'skiff run'.

  ls                                list the profiles; PRECISION is how much of what was read ahead was used, RECALL how
                                    much of what was used had been read ahead
  show                              list the files of one
  export                            print one as docs/prefetch.md describes it, with the digests of its files
  import                            take one over from FILE or standard input, as far as IMAGE, or a name, has its files
  rm                                remove those of an image, or all
      --format text|json            how ls and show print
";

/// The help of a command, or of all.
pub(crate) fn of(command: Option<&str>) -> String {
    match command {
        Some(name) => verbs::help(name).unwrap_or_else(overview),
        None => overview(),
    }
}

fn overview() -> String {
    let [before, after] = OVERVIEW;
    format!("{before}{}{after}", verbs::overview())
}

/// Help texts start in this column.
const COLUMN: usize = 36;

/// The help of a command that has a table.
pub(crate) fn command<A>(command: &Command<A>) -> String {
    let mut text = format!("Usage: skiff {} {}\n\n{}", command.name, command.operands, command.about);
    for section in command.sections {
        text.push_str(&format!("\n{}:\n", section.title));
        for flag in section.flags {
            text.push_str(&line(flag));
        }
    }
    text
}

/// One flag: its names and value, then its help, on a line of its own if the names are long.
fn line<A>(flag: &Flag<A>) -> String {
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
        let help = command(&flags::RUN);
        for flag in flags::RUN.flags() {
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
        for flag in flags::RUN.flags() {
            let name = flag
                .short
                .map_or_else(|| format!("`--{}", flag.long), |short| format!("`-{short}`/`--{}`", flag.long));
            assert!(guide.contains(&name), "{name}");
        }
    }

    #[test]
    fn flags_show_their_short_form_and_value() {
        let help = command(&flags::RUN);
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
