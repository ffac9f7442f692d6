//! The filter of system calls that a process puts around itself.
//!
//! [`Allowed`] is one entry of a role's list: everything else ends the process. What runs as root has no such list,
//! since it starts others that each have their own, and a filter stays with them: it has those taken away that nothing
//! of ours makes ([`denied`]).

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::Role;

mod deny;
mod table;

pub use deny::{Denied, Denies, denied};
pub(crate) use table::calls_of;
pub use table::{Allowed, When};

/// Ends the process (SIGSYS) at any system call that is not in the list of `role`, in all its threads and for good.
///
/// # Errors
/// Those of seccomp(2): the kernel has no filters, or a thread has another filter already.
pub(super) fn confine(role: Role) -> io::Result<()> {
    apply(&compile(calls_of(role), std::process::id()))
}

/// Refuses (EPERM) what is [`denied`], in all threads of the process, in what it starts, and for good.
///
/// # Errors
/// As for a role.
pub(super) fn deny(what: Denies) -> io::Result<()> {
    apply(&deny::compile(what))
}

fn apply(program: &Result<BpfProgram, BackendError>) -> io::Result<()> {
    let program = program.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
    seccompiler::apply_filter_all_threads(program).map_err(io::Error::other)
}

fn compile(policy: impl Iterator<Item = &'static Allowed>, own_pid: u32) -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    for call in policy {
        rules.insert(call.number, rules_for(call.when, own_pid)?);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

/// One rule per way to pass; none means any arguments.
fn rules_for(when: When, own_pid: u32) -> Result<Vec<SeccompRule>, BackendError> {
    ways(when, own_pid)?.into_iter().filter(|way| !way.is_empty()).map(SeccompRule::new).collect()
}

/// The ways to pass, each a list of conditions that all have to hold.
fn ways(when: When, own_pid: u32) -> Result<Vec<Vec<SeccompCondition>>, BackendError> {
    let way = |argument, op, value: u32| {
        Ok(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, u64::from(value))?])
    };
    match when {
        When::Always => Ok(vec![Vec::new()]),
        When::OneOf(argument, values) => {
            values.iter().map(|value| way(argument, SeccompCmpOp::Eq, *value)).collect()
        }
        When::Without(argument, bits) => Ok(vec![way(argument, SeccompCmpOp::MaskedEq(u64::from(bits)), 0)?]),
        When::OwnPid(argument) => Ok(vec![way(argument, SeccompCmpOp::Eq, own_pid)?]),
        When::Both(one, two) => {
            let two = ways(*two, own_pid)?;
            let one = ways(*one, own_pid)?;
            Ok(one.iter().flat_map(|one| two.iter().map(|two| [one.as_slice(), two].concat())).collect())
        }
    }
}

#[cfg(test)]
mod tests;
