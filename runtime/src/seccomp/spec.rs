//! Filters as a bundle's `linux.seccomp` describes them. config-linux.md, "Seccomp".
//!
//! Beside docker's format: what depends on capabilities or kernels has been settled by whoever wrote the bundle, an
//! `errnoRet` for an action that takes none is an error, and a process outside may answer calls (`SCMP_ACT_NOTIFY`).

use skiff_sys::seccomp::Instruction;

use super::rules::{Action, Condition, Rules};
use super::words::{self, Admitted, Surplus};
use super::{Error, Filter, bpf, invalid};
use crate::oci::spec::{Seccomp, Syscall, SyscallArg};

/// The filter that `given` describes.
pub(super) fn compile(given: &Seccomp) -> Result<Filter, Error> {
    let default = words::action(&given.default_action, given.default_errno_ret, Surplus::Refused)
        .map_err(|what| invalid("defaultAction", what))?;
    if let Some(name) = words::unknown_architecture(&given.architectures) {
        return Err(invalid("architectures", format!("unknown architecture {name:?}")));
    }
    let admitted = Admitted::of(&given.architectures);
    let mut parts = Vec::with_capacity(given.syscalls.len());
    for (index, entry) in given.syscalls.iter().enumerate() {
        let at = |(field, what): (String, String)| invalid(&format!("syscalls[{index}]{field}"), what);
        parts.push(rule(entry).map_err(at)?);
    }
    let mut rules = Rules::new(default, admitted.x86);
    rules.x32 = admitted.x32;
    for (entry, (action, conditions)) in given.syscalls.iter().zip(&parts) {
        rules.add(&entry.names, *action, conditions);
    }
    let program = super::assemble(&rules)?;
    let flags = given.flags.as_deref().map_or(Ok(super::FLAGS), words::flags_of);
    let mut flags = flags.map_err(|what| invalid("flags", what))?;
    flags.listener = program.iter().any(notifies);
    Ok(Filter { program, flags })
}

fn rule(given: &Syscall) -> Result<(Action, Vec<Condition>), (String, String)> {
    if given.names.is_empty() {
        return Err((".names".to_owned(), "empty".to_owned()));
    }
    let action = words::action(&given.action, given.errno_ret, Surplus::Refused)
        .map_err(|what| (".action".to_owned(), what))?;
    let conditions = given.args.iter().enumerate().map(|(index, arg)| {
        condition(arg).map_err(|(field, what)| (format!(".args[{index}].{field}"), what))
    });
    Ok((action, conditions.collect::<Result<_, _>>()?))
}

fn condition(given: &SyscallArg) -> Result<Condition, (&'static str, String)> {
    let argument = u8::try_from(given.index).ok().filter(|index| *index <= 5);
    let argument = argument.ok_or_else(|| ("index", "a system call has arguments 0 to 5".to_owned()))?;
    let (operator, value) =
        words::operator(&given.op, given.value, given.value_two).map_err(|what| ("op", what))?;
    Ok(Condition { argument, operator, value })
}

/// Whether this instruction hands a call to another process.
fn notifies(instruction: &Instruction) -> bool {
    instruction.code == bpf::RETURN && instruction.k == Action::NOTIFY.0
}
