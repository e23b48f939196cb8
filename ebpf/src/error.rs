//! Why there is no record: one line each.

use std::io;

/// What kept the programs from counting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller may not load tracing programs.
    #[error("eBPF programs need {} in the initial user namespace, or root", .0.join(" and "))]
    Privilege(Vec<&'static str>),
    /// The kernel does not describe its types.
    #[error("the kernel does not describe its types: read {path}: {cause} (needs CONFIG_DEBUG_INFO_BTF)")]
    NoTypes {
        /// The file.
        path: &'static str,
        /// Why it can't be read.
        cause: io::Error,
    },
    /// The kernel's type information makes no sense.
    #[error("the kernel's types can't be understood: {path}")]
    BadTypes {
        /// The file.
        path: &'static str,
    },
    /// The kernel lacks a field without which nothing can be counted or recorded.
    #[error("this kernel has no field {0}, which the programs have to read")]
    Field(&'static str),
    /// The kernel lacks a tracepoint without which nothing can be counted.
    #[error("this kernel has no tracepoint {0} (needs CONFIG_FTRACE_SYSCALLS and CONFIG_BPF_EVENTS)")]
    Tracepoint(&'static str),
    /// The kernel refused the object, a program or a map.
    #[error("{step}: {cause}")]
    Refused {
        /// What was tried.
        step: String,
        /// The kernel's answer, in one line.
        cause: String,
    },
    /// A file of what is pinned.
    #[error("{step}: {cause}")]
    Pins {
        /// What was tried on what.
        step: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// Something is pinned, with other layouts.
    #[error(
        "{path} is of another build of skiff: 'skiff observe off' removes it, 'skiff observe on' pins this build's"
    )]
    OtherBuild {
        /// The directory.
        path: &'static str,
    },
    /// The programs are pinned already.
    #[error(
        "the programs are pinned already, with {slots} slots, for {probes}: 'skiff observe off' removes them"
    )]
    Pinned {
        /// Containers that they are made for.
        slots: u32,
        /// What they observe, separated by commas.
        probes: String,
    },
    /// Programs are pinned, but not those of system calls.
    #[error("system calls are not observed: 'skiff observe on syscalls' after 'skiff observe off'")]
    NoCalls,
    /// More containers at once than the profiler was made for.
    #[error("all {0} slots for containers are taken")]
    NoSlot(u32),
}

impl Error {
    /// As [`Error::answered`], but that `EPERM` means capabilities that only count in the initial user namespace.
    pub(crate) fn refused(step: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let is_eperm = |error: &&(dyn std::error::Error + 'static)| {
            let io = error.downcast_ref::<io::Error>();
            io.and_then(io::Error::raw_os_error) == Some(libc::EPERM)
        };
        if std::iter::successors(error.source(), |error| error.source()).any(|error| is_eperm(&error)) {
            return Self::Privilege(vec!["CAP_BPF", "CAP_PERFMON"]);
        }
        Self::answered(step, error)
    }

    /// The kernel refused `step`; of its answer, whatever the length, the first line and the last that says something, as one.
    pub(crate) fn answered(step: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = error.to_string();
        let mut deeper = error.source();
        while let Some(error) = deeper {
            let text = error.to_string();
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            deeper = error.source();
        }
        let lines = || cause.lines().map(str::trim).filter(|line| !line.is_empty());
        let noise = |line: &&str| {
            !["processed ", "verification time", "stack depth"].iter().any(|word| line.starts_with(word))
        };
        let (first, last) = (lines().next().unwrap_or(""), lines().rfind(noise).unwrap_or(""));
        let cause = if first == last { first.to_owned() } else { format!("{first} … {last}") };
        // What the kernel refuses before it looks at the program has none.
        let cause = cause.strip_suffix(". Verifier output:").map(str::to_owned).unwrap_or(cause);
        Self::Refused { step: step.into(), cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_becomes_one_line() {
        let answer = io::Error::other(
            "load failed: EACCES\n0: (79) r6 = *(u64 *)(r1 +0)\nR6 invalid mem access\nprocessed 3 insns\n",
        );
        let error = Error::refused("load sys_enter", &answer);
        assert_eq!(error.to_string(), "load sys_enter: load failed: EACCES … R6 invalid mem access");
    }

    #[test]
    fn an_answer_without_the_verifier_s_does_not_announce_it() {
        let answer = io::Error::other("the BPF_PROG_LOAD syscall returned EPERM. Verifier output: ");
        let error = Error::answered("load", &answer);
        assert_eq!(error.to_string(), "load: the BPF_PROG_LOAD syscall returned EPERM");
    }

    #[test]
    fn a_refusal_for_want_of_capabilities_says_which() {
        #[derive(Debug, thiserror::Error)]
        #[error("create a map")]
        struct Create(#[source] io::Error);
        let refused = |errno| Error::refused("load", &Create(io::Error::from_raw_os_error(errno)));
        assert!(matches!(refused(libc::EPERM), Error::Privilege(_)));
        assert!(matches!(refused(libc::EACCES), Error::Refused { .. }), "the verifier's answer");
        let answered = Error::answered("load", &Create(io::Error::from_raw_os_error(libc::EPERM)));
        assert_eq!(answered.to_string(), "load: create a map: Operation not permitted (os error 1)");
    }

    #[test]
    fn missing_capabilities_are_named() {
        let error = Error::Privilege(vec!["CAP_BPF", "CAP_PERFMON"]);
        assert!(error.to_string().contains("CAP_BPF and CAP_PERFMON"));
    }
}
