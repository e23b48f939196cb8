//! What `--help`, `help` and `--version` print, laid out from the table of commands and flags.

use skiff_runtime::oci;

use crate::flags::{COMMANDS, Command, Flag, GLOBAL, Takes};

/// Help texts start in this column.
const COLUMN: usize = 34;

/// `skiff-runtime --version`, in runc's form.
pub(crate) fn version() -> String {
    format!("skiff-runtime version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), oci::VERSION)
}

/// `skiff-runtime --help`.
pub(crate) fn overview() -> String {
    let mut text = String::from(
        "skiff-runtime runs containers from OCI bundles.\n\n\
         Usage: skiff-runtime [FLAGS] COMMAND [FLAGS OF COMMAND] [OPERANDS]\n\nCommands:\n",
    );
    for Command { name, summary, .. } in COMMANDS {
        text += &format!("  {name:12}{summary}\n");
    }
    text += "\nFlags:\n";
    GLOBAL.iter().for_each(|flag| text += &line(flag));
    text
}

/// `skiff-runtime help COMMAND`.
pub(crate) fn command(command: &Command) -> String {
    let Command { name, summary, operands, about, flags, .. } = command;
    let mut text =
        format!("skiff-runtime {name}: {summary}\n\nUsage: skiff-runtime {name} [FLAGS] {operands}");
    text.truncate(text.trim_end().len());
    text += "\n\n";
    if !about.is_empty() {
        text += &format!("{about}\n\n");
    }
    text += "Flags:\n";
    flags.iter().for_each(|flag| text += &line(flag));
    text
}

/// One flag: its names and value, then its help, on a line of its own if the names are long.
fn line<T>(flag: &Flag<T>) -> String {
    let mut line = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.long),
        None => format!("      --{}", flag.long),
    };
    if let Takes::Value(placeholder, _) = flag.takes {
        line += &format!(" {placeholder}");
    }
    if line.chars().count() + 2 > COLUMN {
        return format!("{line}\n{:COLUMN$}{}\n", "", flag.help);
    }
    format!("{line:COLUMN$}{}\n", flag.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_is_in_the_help_on_lines_of_a_terminal() {
        let overview = overview();
        for entry in COMMANDS {
            assert!(overview.contains(&format!("  {}", entry.name)), "{}", entry.name);
            let help = command(entry);
            for flag in entry.flags {
                assert!(help.contains(&format!("--{}", flag.long)), "{} --{}", entry.name, flag.long);
                assert!(help.contains(flag.help), "{} --{}", entry.name, flag.long);
            }
            for line in help.lines().chain(overview.lines()) {
                assert!(line.chars().count() <= 120, "{line}");
            }
        }
    }

    #[test]
    fn flags_show_their_short_form_and_value() {
        let create = COMMANDS.iter().find(|command| command.name == "create").expect("create");
        let help = command(create);
        assert!(
            help.starts_with("skiff-runtime create: create a container whose program waits to be started\n")
        );
        assert!(help.contains("\nUsage: skiff-runtime create [FLAGS] CONTAINER\n"), "{help}");
        assert!(help.contains("\n  -b, --bundle DIR                the bundle"), "{help}");
    }
}
