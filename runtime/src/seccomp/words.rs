//! libseccomp's words for actions, operators, instruction sets and flags, each declared once: profiles in both formats
//! and the features document are made from these tables.

use skiff_sys::seccomp::Flags;

use super::rules::{Action, Operator};

/// What an action does with the number that can be given for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// It takes none.
    None,
    /// The call's error.
    Errno,
    /// Told to the tracer.
    Trace,
}

const ACTIONS: &[(&str, Action, Data)] = &[
    ("SCMP_ACT_ALLOW", Action::ALLOW, Data::None),
    ("SCMP_ACT_ERRNO", Action::errno(0), Data::Errno),
    ("SCMP_ACT_KILL", Action::KILL_THREAD, Data::None),
    ("SCMP_ACT_KILL_PROCESS", Action::KILL_PROCESS, Data::None),
    ("SCMP_ACT_KILL_THREAD", Action::KILL_THREAD, Data::None),
    ("SCMP_ACT_LOG", Action::LOG, Data::None),
    ("SCMP_ACT_NOTIFY", Action::NOTIFY, Data::None),
    ("SCMP_ACT_TRACE", Action::trace(0), Data::Trace),
    ("SCMP_ACT_TRAP", Action::TRAP, Data::None),
];

const OPERATORS: &[(&str, Operator)] = &[
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual(0)),
    ("SCMP_CMP_NE", Operator::NotEqual),
];

/// Those that libseccomp 2.6 knows. Only the first three run on the processors that skiff runs on; a profile may name
/// the others, for it serves machines of any kind.
const ARCHITECTURES: &[&str] = &[
    X86_64,
    X86,
    X32,
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

/// This machine's.
pub(super) const X86_64: &str = "SCMP_ARCH_X86_64";
/// That of the 32-bit programs that it runs.
const X86: &str = "SCMP_ARCH_X86";
/// That of programs with 32-bit pointers in 64-bit registers.
const X32: &str = "SCMP_ARCH_X32";

const FLAGS: &[(&str, Flags)] = &[
    ("SECCOMP_FILTER_FLAG_LOG", Flags { log: true, ..Flags::NONE }),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", Flags { spec_allow: true, ..Flags::NONE }),
    // All threads of the process at once: there is only one when the filter is installed.
    ("SECCOMP_FILTER_FLAG_TSYNC", Flags::NONE),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", Flags { wait_killable: true, ..Flags::NONE }),
];

/// The names of all actions.
pub fn actions() -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().map(|(name, ..)| *name)
}

/// The names of all operators.
pub fn operators() -> impl Iterator<Item = &'static str> {
    OPERATORS.iter().map(|(name, _)| *name)
}

/// The names of all instruction sets.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().copied()
}

/// The names of all flags.
pub fn flags() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(name, _)| *name)
}

/// What an action does with a number that it does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surplus {
    /// The profile is refused, as the runtime specification asks.
    Refused,
    /// Passed over, as docker does.
    Ignored,
}

/// The action `name` with the number `errno`; the error says what is wrong.
pub(super) fn action(name: &str, errno: Option<u32>, surplus: Surplus) -> Result<Action, String> {
    /// `EPERM`, as in runc.
    const DEFAULT: u16 = 1;
    /// The kernel takes greater ones for this one.
    const GREATEST: u32 = 4095;
    let Some((_, base, data)) = ACTIONS.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("unknown action {name:?}"));
    };
    let number = match errno {
        None => DEFAULT,
        Some(errno) if errno <= GREATEST => u16::try_from(errno).unwrap_or(DEFAULT),
        Some(errno) => return Err(format!("errno {errno} is greater than {GREATEST}")),
    };
    Ok(match data {
        Data::None if errno.is_some() && surplus == Surplus::Refused => {
            return Err(format!("{name} takes no errno"));
        }
        Data::None => *base,
        Data::Errno => Action::errno(number),
        Data::Trace => Action::trace(number),
    })
}

/// The operator `name`, with its value out of the two that a profile gives for it.
pub(super) fn operator(name: &str, value: u64, value_two: u64) -> Result<(Operator, u64), String> {
    let found = OPERATORS.iter().find(|(known, _)| *known == name).map(|(_, operator)| *operator);
    match found.ok_or_else(|| format!("unknown operator {name:?}"))? {
        // Here the first value is the mask.
        Operator::MaskedEqual(_) => Ok((Operator::MaskedEqual(value), value_two)),
        plain => Ok((plain, value)),
    }
}

/// The flags `names`; the error is one that is not known.
pub(super) fn flags_of(names: &[String]) -> Result<Flags, String> {
    let mut flags = Flags::NONE;
    for name in names {
        let found = FLAGS.iter().find(|(known, _)| known == name);
        let (_, found) = found.ok_or_else(|| format!("unknown flag {name:?}"))?;
        flags = flags.with(*found);
    }
    Ok(flags)
}

/// Which programs are admitted beside those of x86-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Those of i386.
    pub(super) x86: bool,
    /// Those of x32.
    pub(super) x32: bool,
}

impl Admitted {
    /// Those of the instruction sets `names`.
    pub(super) fn of(names: &[String]) -> Self {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        Self { x86: has(X86), x32: has(X32) }
    }
}

/// An instruction set among `names` that nobody knows.
pub(super) fn unknown_architecture(names: &[String]) -> Option<&String> {
    names.iter().find(|name| !ARCHITECTURES.contains(&name.as_str()))
}
