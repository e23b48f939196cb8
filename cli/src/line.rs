//! Command lines, understood by tables: of each command its flags are declared once, and parser, help and tests read that.
//!
//! A flag's value is attached (`--name=web`, `-m512m`) or follows; letters without values can be joined (`-it`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::failure::Failure;
use crate::values::{self, Reason};

/// A command: its flags act on an `A`.
#[derive(Debug)]
pub(crate) struct Command<A: 'static> {
    /// As it is typed after `skiff`.
    pub(crate) name: &'static str,
    /// What follows the name, for the help.
    pub(crate) operands: &'static str,
    /// What it does, for the help: whole lines.
    pub(crate) about: &'static str,
    pub(crate) sections: &'static [Section<A>],
    /// Where flags may be.
    pub(crate) order: Order,
    /// Other names of flags.
    pub(crate) aliases: &'static [(&'static str, &'static str)],
    /// Flags of docker's that are refused by name, with their short forms.
    pub(crate) unsupported: &'static [(&'static str, Option<char>)],
}

/// Where flags may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before the operands: these may have flags of their own.
    FlagsFirst,
    /// Anywhere.
    Mixed,
}

/// Flags that belong together, under one heading of the help.
#[derive(Debug)]
pub(crate) struct Section<A: 'static> {
    pub(crate) title: &'static str,
    pub(crate) flags: &'static [Flag<A>],
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag<A> {
    /// Without the dashes.
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    /// One line, for the help.
    pub(crate) help: &'static str,
    pub(crate) takes: Takes<A>,
}

/// What follows a flag, and what it does to the arguments.
#[derive(Debug)]
pub(crate) enum Takes<A> {
    /// Nothing, or `=true` or `=false`.
    Nothing(fn(&mut A, bool)),
    /// A value, shown in the help by this word.
    Value(&'static str, fn(&mut A, &str) -> Result<(), Reason>),
    /// A value that need not be text.
    Bytes(&'static str, fn(&mut A, &OsStr) -> Result<(), Reason>),
    /// Nothing, or `=value`.
    Optional(&'static str, fn(&mut A, Option<&OsStr>)),
}

impl<A> Flag<A> {
    pub(crate) const fn switch(
        short: Option<char>,
        long: &'static str,
        help: &'static str,
        set: fn(&mut A, bool),
    ) -> Self {
        Self { long, short, help, takes: Takes::Nothing(set) }
    }

    pub(crate) const fn value(
        short: Option<char>,
        long: &'static str,
        placeholder: &'static str,
        help: &'static str,
        set: fn(&mut A, &str) -> Result<(), Reason>,
    ) -> Self {
        Self { long, short, help, takes: Takes::Value(placeholder, set) }
    }

    pub(crate) const fn bytes(
        short: Option<char>,
        long: &'static str,
        placeholder: &'static str,
        help: &'static str,
        set: fn(&mut A, &OsStr) -> Result<(), Reason>,
    ) -> Self {
        Self { long, short, help, takes: Takes::Bytes(placeholder, set) }
    }
}

/// Puts a parsed value where it belongs.
pub(crate) fn put<T>(slot: &mut T, parsed: T) -> Result<(), Reason> {
    *slot = parsed;
    Ok(())
}

/// Adds a parsed value to those already there.
pub(crate) fn add<T>(list: &mut Vec<T>, parsed: T) -> Result<(), Reason> {
    list.push(parsed);
    Ok(())
}

/// What follows the name of a command.
pub(crate) type Rest<'a> = &'a mut dyn Iterator<Item = OsString>;

/// A flag by its long name, and its value.
pub(crate) type Given = (&'static str, Option<OsString>);

/// Is shown each flag with its value.
type Visit<'a, A> = &'a mut dyn FnMut(&'static Flag<A>, Option<&OsStr>) -> Result<(), Failure>;

impl<A> Command<A> {
    /// Every flag, in the order of the help.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static Flag<A>> {
        self.sections.iter().flat_map(|section| section.flags)
    }

    /// Understands `words`: sets what the flags say, and returns the operands; `None` if help is asked for.
    pub(crate) fn parse(&self, args: &mut A, words: Rest<'_>) -> Result<Option<Vec<OsString>>, Failure> {
        self.walk(words, &mut |flag, value| apply(args, flag, value))
    }

    /// The flags that `words` give, by their long names and in order, with their values.
    pub(crate) fn given(&self, words: Rest<'_>) -> Result<Vec<Given>, Failure> {
        let mut given = Vec::new();
        self.walk(words, &mut |flag, value| {
            given.push((flag.long, value.map(OsStr::to_owned)));
            Ok(())
        })?;
        Ok(given)
    }

    /// What `words` give beside flags.
    pub(crate) fn operands(&self, words: Rest<'_>) -> Result<Vec<OsString>, Failure> {
        Ok(self.walk(words, &mut |_, _| Ok(()))?.unwrap_or_default())
    }

    /// Tells flags and operands apart, and shows each flag with its value to `visit`.
    fn walk(&self, words: Rest<'_>, visit: Visit<'_, A>) -> Result<Option<Vec<OsString>>, Failure> {
        let mut operands = Vec::new();
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--help" => return Ok(None),
                b"-h" if !self.flags().any(|flag| flag.short == Some('h')) => return Ok(None),
                b"--" => break,
                [b'-', b'-', long @ ..] => self.long_flag(visit, long, words)?,
                [b'-', cluster @ ..] if !cluster.is_empty() => self.short_flags(visit, cluster, words)?,
                _ => {
                    operands.push(word);
                    if self.order == Order::FlagsFirst {
                        break;
                    }
                }
            }
        }
        operands.extend(words);
        Ok(Some(operands))
    }

    /// Understands flags of this command at the beginning of `words`, up to the first word that is none of them; returns what comes then,
    /// or `None` if help is asked for.
    pub(crate) fn leading(
        &self,
        args: &mut A,
        words: Vec<OsString>,
    ) -> Result<Option<Vec<OsString>>, Failure> {
        let mut words = words.into_iter().peekable();
        let visit: Visit<'_, A> = &mut |flag, value| apply(args, flag, value);
        while let Some(word) = words.next_if(|word| word == "--help" || self.is_own(word)) {
            match word.as_bytes() {
                b"--help" => return Ok(None),
                [b'-', b'-', long @ ..] => self.long_flag(visit, long, &mut words)?,
                [_, cluster @ ..] => self.short_flags(visit, cluster, &mut words)?,
                [] => {}
            }
        }
        Ok(Some(words.collect()))
    }

    /// Whether `word` is a flag of this command.
    pub(crate) fn is_own(&self, word: &OsStr) -> bool {
        match word.as_bytes() {
            [b'-', b'-', long @ ..] => {
                let name = long.split(|byte| *byte == b'=').next().unwrap_or_default();
                self.flags().any(|flag| flag.long.as_bytes() == name)
            }
            [b'-', letter, ..] => self.flags().any(|flag| flag.short == Some(char::from(*letter))),
            _ => false,
        }
    }

    /// A failure that points to the help.
    pub(crate) fn usage(&self, message: &str) -> Failure {
        Failure::engine(format!("{message}, see 'skiff {} --help'", self.name))
    }

    /// `--name`, `--name=value` or `--name value`.
    fn long_flag(&self, visit: Visit<'_, A>, word: &[u8], rest: Rest<'_>) -> Result<(), Failure> {
        let (name, attached) = match word.iter().position(|&b| b == b'=') {
            Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]))),
            None => (word, None),
        };
        let name = String::from_utf8_lossy(name);
        let name = self.aliases.iter().find(|(alias, _)| *alias == name).map_or(&*name, |(_, name)| name);
        match self.flags().find(|flag| flag.long == name) {
            Some(flag) => self.take(visit, flag, attached, rest),
            None if self.unsupported.iter().any(|(long, _)| *long == name) => Err(unsupported(name)),
            None => Err(self.usage(&format!("unknown flag: --{name}"))),
        }
    }

    /// A cluster of one-letter flags: switches, and at its end a flag whose value may be attached (`-itm512m`, `-m=1g`).
    fn short_flags(&self, visit: Visit<'_, A>, cluster: &[u8], rest: Rest<'_>) -> Result<(), Failure> {
        let mut at = 0;
        while at < cluster.len() {
            let letter = char::from(cluster[at]);
            let Some(flag) = self.flags().find(|flag| flag.short == Some(letter)) else {
                return Err(self.unknown_letter(letter, cluster));
            };
            at += 1;
            let tail = &cluster[at..];
            let value = tail.strip_prefix(b"=").unwrap_or(tail);
            let attached = match flag.takes {
                Takes::Nothing(_) if tail.len() == value.len() => None,
                _ if tail.is_empty() => None,
                _ => Some(OsStr::from_bytes(value)),
            };
            if attached.is_some() {
                at = cluster.len();
            }
            self.take(visit, flag, attached, rest)?;
        }
        Ok(())
    }

    fn unknown_letter(&self, letter: char, cluster: &[u8]) -> Failure {
        match self.unsupported.iter().find(|(_, short)| *short == Some(letter)) {
            Some((long, _)) => unsupported(long),
            None if cluster.len() == 1 => self.usage(&format!("unknown flag: -{letter}")),
            None => self.usage(&format!("unknown flag: '{letter}' in -{}", String::from_utf8_lossy(cluster))),
        }
    }

    /// Shows `flag` with its value: the attached one, or the next word if it needs one.
    fn take(
        &self,
        visit: Visit<'_, A>,
        flag: &'static Flag<A>,
        attached: Option<&OsStr>,
        rest: Rest<'_>,
    ) -> Result<(), Failure> {
        let next = match flag.takes {
            Takes::Value(..) | Takes::Bytes(..) if attached.is_none() => {
                Some(rest.next().ok_or_else(|| self.usage(&format!("--{} needs a value", flag.long)))?)
            }
            _ => None,
        };
        visit(flag, attached.or(next.as_deref()))
    }
}

/// Gives `flag` its value.
fn apply<A>(args: &mut A, flag: &Flag<A>, value: Option<&OsStr>) -> Result<(), Failure> {
    let done = match (&flag.takes, value) {
        (Takes::Nothing(set), None) => {
            set(args, true);
            Ok(())
        }
        (Takes::Nothing(set), Some(value)) => position(value).map(|on| set(args, on)),
        (Takes::Value(_, set), value) => text(value.unwrap_or_default()).and_then(|value| set(args, value)),
        (Takes::Bytes(_, set), value) => set(args, value.unwrap_or_default()),
        (Takes::Optional(_, set), value) => {
            set(args, value);
            Ok(())
        }
    };
    done.map_err(|reason| {
        let value = value.unwrap_or_default().to_string_lossy();
        Failure::engine(format!("invalid value '{value}' for --{}: {reason}", flag.long))
    })
}

/// An operand that has to be text.
pub(crate) fn operand(word: OsString) -> Result<String, Failure> {
    word.into_string().map_err(|word| Failure::engine(format!("{}: not valid UTF-8", word.to_string_lossy())))
}

/// The text of a value that has to be text.
fn text(value: &OsStr) -> Result<&str, Reason> {
    value.to_str().ok_or_else(|| "not valid UTF-8".into())
}

/// The switch's position in `=VALUE`.
fn position(value: &OsStr) -> Result<bool, Reason> {
    values::boolean(text(value)?)
}

fn unsupported(name: &str) -> Failure {
    Failure::engine(format!("--{name} is not supported yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Args {
        on: bool,
        number: String,
    }

    static COMMAND: Command<Args> = Command {
        name: "stop",
        operands: "CONTAINER…",
        about: "",
        sections: &[Section {
            title: "Options",
            flags: &[
                Flag::switch(Some('a'), "all", "", |args, on| args.on = on),
                Flag::value(Some('n'), "last", "NUMBER", "", |args, v| put(&mut args.number, v.to_owned())),
            ],
        }],
        order: Order::Mixed,
        aliases: &[("time", "last")],
        unsupported: &[("size", Some('s'))],
    };

    fn parse(line: &str) -> Result<Option<(bool, String, Vec<String>)>, String> {
        let mut args = Args::default();
        let mut words = line.split_whitespace().map(OsString::from);
        let operands = COMMAND.parse(&mut args, &mut words).map_err(|failure| failure.message)?;
        Ok(operands.map(|operands| {
            (args.on, args.number, operands.into_iter().map(|word| operand(word).expect("text")).collect())
        }))
    }

    #[test]
    fn flags_may_stand_between_operands() {
        let check = |line: &str, on: bool, number: &str, operands: &[&str]| {
            let operands = operands.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(parse(line), Ok(Some((on, number.to_owned(), operands))), "{line}");
        };
        check("", false, "", &[]);
        check("web -a db", true, "", &["web", "db"]);
        check("web -an5 db", true, "5", &["web", "db"]);
        check("--time=5 web --all=false", false, "5", &["web"]);
        check("-- -a", false, "", &["-a"]);
        check("- web", false, "", &["-", "web"]);
    }

    #[test]
    fn flags_are_told_by_their_long_names() {
        let mut words = "-an5 --time=6 web --all=false".split_whitespace().map(OsString::from);
        let given = COMMAND.given(&mut words).expect("understood");
        let value = |text: &str| Some(OsString::from(text));
        let expected = [("all", None), ("last", value("5")), ("last", value("6")), ("all", value("false"))];
        assert_eq!(given, expected);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let check = |line: &str, expected: &str| assert_eq!(parse(line), Err(expected.to_owned()), "{line}");
        check("--nope", "unknown flag: --nope, see 'skiff stop --help'");
        check("-as", "--size is not supported yet");
        check("-n", "--last needs a value, see 'skiff stop --help'");
        check("--all=x", "invalid value 'x' for --all: neither true nor false");
        assert_eq!(parse("web --help"), Ok(None));
        assert_eq!(parse("web -h"), Ok(None));
    }
}
