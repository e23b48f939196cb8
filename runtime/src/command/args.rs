//! The command line: `skiff-runtime [GLOBAL FLAGS] COMMAND [FLAGS] [OPERANDS]` becomes [`Global`], a [`Command`] and
//! [`Args`].
//!
//! Flags are written as callers of runc write them, whose parser is Go's – `--flag value`, `--flag=value`, and both with a
//! single dash – or as callers of crun do, with one-letter switches joined (`-dt`). They are declared in [`crate::flags`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use skiff_runtime::oci::spec;

use crate::failure::Failure;
use crate::flags::{self, Command, Flag, Order, Takes};

/// What holds for every command.
#[derive(Debug, Default)]
pub(crate) struct Global {
    /// Where containers are kept.
    pub(crate) root: Option<PathBuf>,
    /// Where failures, and with `--debug` more, are written down.
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
    pub(crate) debug: bool,
    pub(crate) cgroup_manager: CgroupManager,
    /// Whether cgroups that cannot be made are done without; found out when absent.
    pub(crate) rootless: Option<bool>,
    /// The program that checkpoints and restores.
    pub(crate) criu: Option<PathBuf>,
    pub(crate) wants: Wants,
}

/// What is asked for in the place of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Wants {
    #[default]
    Command,
    Help,
    Version,
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CgroupManager {
    /// The runtime, as directories.
    #[default]
    Directories,
    /// systemd, as scopes.
    Systemd,
    /// Nobody.
    None,
}

/// What a command was asked for: every flag of any command, and the operands.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) operands: Vec<OsString>,
    pub(crate) launch: Launch,
    pub(crate) exec: Exec,
    pub(crate) limits: Limits,
    pub(crate) images: Images,
    pub(crate) all: bool,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
    pub(crate) format: Format,
    pub(crate) stats: bool,
    pub(crate) interval: Option<Duration>,
    pub(crate) rootless: bool,
    pub(crate) help: bool,
}

/// Flags of what starts a program.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pidfd_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) detach: bool,
    pub(crate) keep: bool,
}

/// Flags of `exec`.
#[derive(Debug, Default)]
pub(crate) struct Exec {
    pub(crate) process: Option<PathBuf>,
    pub(crate) tty: bool,
    /// `UID[:GID]`. What is wrong with it is a failure of `exec`, with its exit code.
    pub(crate) user: Option<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) env: Vec<String>,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) caps: Vec<String>,
    pub(crate) apparmor: Option<String>,
    pub(crate) process_label: Option<String>,
    pub(crate) no_new_privs: bool,
    pub(crate) cgroups: Vec<String>,
    pub(crate) ignore_paused: bool,
}

/// Flags of `update`.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// A file with all of them, `-` for standard input.
    pub(crate) file: Option<PathBuf>,
    /// Those that are flags.
    pub(crate) resources: spec::Resources,
    pub(crate) l3_cache_schema: Option<String>,
    pub(crate) mem_bw_schema: Option<String>,
}

/// Flags of `checkpoint` and `restore`.
#[derive(Debug, Default)]
pub(crate) struct Images {
    pub(crate) image_path: Option<PathBuf>,
    pub(crate) work_path: Option<PathBuf>,
    pub(crate) parent_path: Option<PathBuf>,
    pub(crate) leave_running: bool,
    pub(crate) tcp_established: bool,
    pub(crate) tcp_skip_in_flight: bool,
    pub(crate) tcp_close: bool,
    pub(crate) link_remap: bool,
    pub(crate) ext_unix_sk: bool,
    pub(crate) shell_job: bool,
    pub(crate) file_locks: bool,
    pub(crate) pre_dump: bool,
    pub(crate) auto_dedup: bool,
    pub(crate) lazy_pages: bool,
    pub(crate) status_fd: Option<i32>,
    /// Address and port.
    pub(crate) page_server: Option<(String, u16)>,
    pub(crate) manage_cgroups_mode: Option<String>,
    pub(crate) empty_ns: Vec<String>,
    pub(crate) lsm_profile: Option<String>,
    pub(crate) lsm_mount_context: Option<String>,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

impl Args {
    /// The operand with the number `index` as text.
    pub(crate) fn operand(&self, index: usize) -> Option<&str> {
        self.operands.get(index)?.to_str()
    }

    /// The container's id, which is the first operand of every command that concerns one.
    pub(crate) fn id(&self) -> &str {
        // One that is not text is none that could have been given to a container.
        self.operand(0).unwrap_or_default()
    }
}

/// Understands the flags before the command; the rest begins with its name.
pub(crate) fn global(words: impl IntoIterator<Item = OsString>) -> Result<(Global, Vec<OsString>), Failure> {
    let (mut global, mut rest) = (Global::default(), Vec::new());
    take_flags(flags::GLOBAL, Order::FlagsFirst, &mut words.into_iter(), &mut global, &mut rest)
        .map_err(|why| usage(&why, None))?;
    Ok((global, rest))
}

/// Understands a command and what follows it.
pub(crate) fn command(words: Vec<OsString>) -> Result<(&'static Command, Args), Failure> {
    let mut words = words.into_iter();
    let name = words.next().ok_or_else(|| usage("no command given", None))?;
    let name = name.to_string_lossy();
    let command = flags::command(&name).ok_or_else(|| usage(&format!("unknown command: {name}"), None))?;
    let args = parse_command(command, words).map_err(|why| usage(&why, Some(command)))?;
    Ok((command, args))
}

fn parse_command(command: &Command, mut words: impl Iterator<Item = OsString>) -> Result<Args, String> {
    let mut args = Args::default();
    let mut operands = Vec::new();
    take_flags(command.flags, command.order, &mut words, &mut args, &mut operands)?;
    args.operands = operands;
    let count = args.operands.len();
    if !args.help && !command.count.contains(&count) {
        let wanted = if command.operands.is_empty() { "no operands" } else { command.operands };
        return Err(format!("{}: takes {wanted}, not {count} operands", command.name));
    }
    Ok(args)
}

/// Takes flags off `words`; what is none goes to `operands`.
fn take_flags<T>(
    flags: &[Flag<T>],
    order: Order,
    words: &mut dyn Iterator<Item = OsString>,
    target: &mut T,
    operands: &mut Vec<OsString>,
) -> Result<(), String> {
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => operands.extend(&mut *words),
            [b'-', b'-', name @ ..] => named(flags, name, words, target)?,
            // A lone dash stands for a stream.
            [b'-', name @ ..] if !name.is_empty() => {
                if find_long(flags, split(name).0).is_some() {
                    named(flags, name, words, target)?;
                } else {
                    letters(flags, name, words, target)?;
                }
            }
            _ => {
                operands.push(word);
                if order == Order::FlagsFirst {
                    operands.extend(&mut *words);
                }
            }
        }
    }
    Ok(())
}

/// `name`, and what follows `=` if anything does.
fn split(word: &[u8]) -> (&[u8], Option<&OsStr>) {
    match word.iter().position(|&byte| byte == b'=') {
        Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]))),
        None => (word, None),
    }
}

fn find_long<'a, T>(flags: &'a [Flag<T>], name: &[u8]) -> Option<&'a Flag<T>> {
    flags.iter().find(|flag| flag.long.as_bytes() == name)
}

fn find_letter<T>(flags: &[Flag<T>], letter: u8) -> Option<&Flag<T>> {
    flags.iter().find(|flag| flag.short == Some(char::from(letter)))
}

/// A flag by its name, or by its letter after two dashes, as Go has it.
fn named<T>(
    flags: &[Flag<T>],
    word: &[u8],
    rest: &mut dyn Iterator<Item = OsString>,
    target: &mut T,
) -> Result<(), String> {
    let (name, attached) = split(word);
    let flag = find_long(flags, name).or_else(|| match name {
        [letter] => find_letter(flags, *letter),
        _ => None,
    });
    let flag = flag.ok_or_else(|| format!("unknown flag: --{}", String::from_utf8_lossy(name)))?;
    set(flag, attached, rest, target)
}

/// One-letter flags, joined: switches, and at the end one whose value may be attached (`-dt`, `-u1000`, `-b=/bundle`).
fn letters<T>(
    flags: &[Flag<T>],
    word: &[u8],
    rest: &mut dyn Iterator<Item = OsString>,
    target: &mut T,
) -> Result<(), String> {
    let mut tail = word;
    while let [letter, after @ ..] = tail {
        let flag = find_letter(flags, *letter).ok_or_else(|| unknown(*letter, word))?;
        let attached = match (after, &flag.takes) {
            ([b'=', value @ ..], _) => Some(OsStr::from_bytes(value)),
            ([], _) | (_, Takes::Nothing(_)) => None,
            (value, Takes::Value(..)) => Some(OsStr::from_bytes(value)),
        };
        set(flag, attached, rest, target)?;
        tail = if attached.is_some() { &[] } else { after };
    }
    Ok(())
}

fn unknown(letter: u8, word: &[u8]) -> String {
    let word = String::from_utf8_lossy(word);
    if word.len() == 1 {
        format!("unknown flag: -{word}")
    } else {
        format!("unknown flag: {:?} in -{word}", char::from(letter))
    }
}

/// Gives `flag` its value: the attached one, or the next word if it needs one.
fn set<T>(
    flag: &Flag<T>,
    attached: Option<&OsStr>,
    rest: &mut dyn Iterator<Item = OsString>,
    target: &mut T,
) -> Result<(), String> {
    let invalid =
        |value: &OsStr, why| format!("invalid value '{}' for --{}: {why}", value.display(), flag.long);
    match (&flag.takes, attached) {
        (Takes::Nothing(set), None) => set(target, true),
        (Takes::Nothing(set), Some(value)) => set(target, boolean(value).map_err(|why| invalid(value, why))?),
        (Takes::Value(_, set), Some(value)) => set(target, value).map_err(|why| invalid(value, why))?,
        (Takes::Value(_, set), None) => {
            let value = rest.next().ok_or_else(|| format!("--{} needs a value", flag.long))?;
            set(target, &value).map_err(|why| invalid(&value, why))?;
        }
    }
    Ok(())
}

/// The spellings of Go's strconv.ParseBool.
pub(crate) fn boolean(text: &OsStr) -> Result<bool, String> {
    match text.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err("neither true nor false".into()),
    }
}

fn usage(why: &str, command: Option<&Command>) -> Failure {
    let topic = command.map(|command| format!(" {}", command.name)).unwrap_or_default();
    Failure::new(format!("{why}, see 'skiff-runtime help{topic}'"))
}

#[cfg(test)]
mod tests;
