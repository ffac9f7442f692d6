//! The system calls that are refused to what runs as root, and to what starts processes of its own.
//!
//! A filter stays with all that a process starts. The daemon and the gateway start the roles, and the gateway programs
//! of an operator that are asked for keys; a network starts its stack, and has the host's resolver in it, which is
//! made of modules that this program does not know. A list of what may pass would have to hold what all of those do,
//! so there is one of what nobody of them does.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};

/// Who is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denies {
    /// The daemon, the gateway, and a device in the foreground.
    Root,
    /// A network of the daemon: what a process that is nobody has no use for is gone too.
    Network,
}

/// A system call that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Its name, as in the manual.
    pub name: &'static str,
    /// Its number on this machine.
    pub number: c_long,
}

macro_rules! calls {
    ($($name:literal $number:ident),* $(,)?) => {
        &[$(Denied { name: $name, number: libc::$number }),*]
    };
}

/// By what they would do, and to whom.
const TO_ALL: &[(&str, &[Denied])] = &[
    (
        "another process: its memory, its descriptors, its course",
        calls![
            "kcmp" SYS_kcmp, "pidfd_getfd" SYS_pidfd_getfd, "process_madvise" SYS_process_madvise,
            "process_mrelease" SYS_process_mrelease, "process_vm_readv" SYS_process_vm_readv,
            "process_vm_writev" SYS_process_vm_writev, "ptrace" SYS_ptrace,
        ],
    ),
    (
        "code in the kernel, and another kernel",
        calls![
            "bpf" SYS_bpf, "delete_module" SYS_delete_module, "finit_module" SYS_finit_module,
            "init_module" SYS_init_module, "kexec_file_load" SYS_kexec_file_load, "kexec_load" SYS_kexec_load,
            "reboot" SYS_reboot,
        ],
    ),
    (
        "parts of the kernel that have had many faults",
        calls![
            "add_key" SYS_add_key, "io_uring_enter" SYS_io_uring_enter, "io_uring_register" SYS_io_uring_register,
            "io_uring_setup" SYS_io_uring_setup, "keyctl" SYS_keyctl, "perf_event_open" SYS_perf_event_open,
            "request_key" SYS_request_key, "userfaultfd" SYS_userfaultfd,
        ],
    ),
    (
        "files by number, and what others do with files",
        calls![
            "chroot" SYS_chroot, "fanotify_init" SYS_fanotify_init, "fanotify_mark" SYS_fanotify_mark,
            "lookup_dcookie" SYS_lookup_dcookie, "nfsservctl" SYS_nfsservctl,
            "open_by_handle_at" SYS_open_by_handle_at, "quotactl" SYS_quotactl, "quotactl_fd" SYS_quotactl_fd,
        ],
    ),
    (
        "the machine: its clock, its name, its memory, its log",
        calls![
            "acct" SYS_acct, "adjtimex" SYS_adjtimex, "clock_adjtime" SYS_clock_adjtime,
            "clock_settime" SYS_clock_settime, "mbind" SYS_mbind, "migrate_pages" SYS_migrate_pages,
            "move_pages" SYS_move_pages, "personality" SYS_personality, "set_mempolicy" SYS_set_mempolicy,
            "setdomainname" SYS_setdomainname, "sethostname" SYS_sethostname, "settimeofday" SYS_settimeofday,
            "swapoff" SYS_swapoff, "swapon" SYS_swapon, "syslog" SYS_syslog, "vhangup" SYS_vhangup,
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    (
        "what only x86 has",
        calls![
            "_sysctl" SYS__sysctl, "ioperm" SYS_ioperm, "iopl" SYS_iopl, "modify_ldt" SYS_modify_ldt,
            "sysfs" SYS_sysfs, "uselib" SYS_uselib, "ustat" SYS_ustat,
        ],
    ),
];

const TO_NETWORKS: &[(&str, &[Denied])] = &[
    (
        "what is mounted where",
        calls![
            "fsconfig" SYS_fsconfig, "fsmount" SYS_fsmount, "fsopen" SYS_fsopen, "fspick" SYS_fspick,
            "mount" SYS_mount, "mount_setattr" SYS_mount_setattr, "move_mount" SYS_move_mount,
            "open_tree" SYS_open_tree, "pivot_root" SYS_pivot_root, "umount2" SYS_umount2,
        ],
    ),
    (
        "other ids and other namespaces than its own",
        calls![
            "setfsgid" SYS_setfsgid, "setfsuid" SYS_setfsuid, "setgid" SYS_setgid, "setgroups" SYS_setgroups,
            "setns" SYS_setns, "setregid" SYS_setregid, "setresgid" SYS_setresgid, "setresuid" SYS_setresuid,
            "setreuid" SYS_setreuid, "setuid" SYS_setuid,
        ],
    ),
];

/// What is refused, by what it would do.
pub fn denied(to: Denies) -> impl Iterator<Item = (&'static str, &'static [Denied])> {
    let more = if to == Denies::Network { TO_NETWORKS } else { &[] };
    TO_ALL.iter().chain(more).copied()
}

/// The second table of x86-64: the same numbers with this bit (asm/unistd.h), in kernels that have it.
#[cfg(target_arch = "x86_64")]
const X32_BIT: c_long = 0x4000_0000;

/// Calls of ours that have another number there (arch/x86/entry/syscalls/syscall_64.tbl): ptrace, `kexec_load`,
/// `move_pages`, `process_vm_readv`, `process_vm_writev`.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [c_long; 5] = [521, 528, 532, 539, 540];

/// All numbers that are refused.
pub(super) fn numbers(to: Denies) -> Vec<c_long> {
    let all: Vec<c_long> = denied(to).flat_map(|(_, calls)| calls).map(|call| call.number).collect();
    #[cfg(target_arch = "x86_64")]
    let all = {
        let x32: Vec<c_long> = all.iter().chain(&X32_OWN).map(|number| number | X32_BIT).collect();
        [all, x32].concat()
    };
    all
}

pub(super) fn compile(to: Denies) -> Result<BpfProgram, BackendError> {
    let rules: BTreeMap<_, _> = numbers(to).into_iter().map(|number| (number, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, std::env::consts::ARCH.try_into()?)?.try_into()
}
