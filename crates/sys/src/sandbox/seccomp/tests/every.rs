//! Every call there is, made by a process of each role: one process for each call, so that nothing is left to how a
//! filter is read.

use super::*;

/// What becomes of a process of a role that makes a call, with these arguments.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    Goes,
}

fn fate(role: Role, number: c_long, arguments: [c_long; 6]) -> Fate {
    let (status, message) = in_child(None, || {
        confine_as(role);
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: a forked process of a user that has nothing, which ends here: it can do nothing to anybody.
        unsafe { libc::syscall(number, a, b, c, d, e, f) };
    });
    match (status.terminating_signal(), status.exit_status()) {
        (Some(libc::SIGSYS), _) => Fate::Killed,
        (None, Some(0)) => Fate::Goes,
        _ => panic!("{role:?} {number} {arguments:?}: {status:?} {message}"),
    }
}

/// uretprobe and uprobe of x86-64: newer kernels let them by every filter, since it is the kernel itself that puts them
/// into a program that is traced. Made anywhere else they do nothing, or end the process by SIGILL.
const OF_TRACERS: [c_long; 2] = [335, 336];

const NOTHING: [c_long; 6] = [-1, 0, 0, 0, 0, 0];

/// Past the last number of any architecture: x86-64 has some of its second table up to 547.
const NUMBERS: c_long = 600;

/// Every number there is, and what is behind them: each is a process, so nothing is left to how a filter is read.
fn every_other_number_kills(role: Role) {
    if !root() {
        return;
    }
    let allowed: BTreeSet<_> = role.calls().map(|call| call.number).collect();
    let others = (0..NUMBERS).filter(|number| !allowed.contains(number) && !OF_TRACERS.contains(number));
    // The second table of x86-64 has all of them once more.
    let second = (0..NUMBERS).map(|number| number | 0x4000_0000);
    for number in others.chain(second).chain([c_long::from(i32::MAX)]) {
        assert_eq!(fate(role, number, NOTHING), Fate::Killed, "{role:?} {number}");
    }
}

/// Calls by which a process gets out of a sandbox, with the arguments that do it.
fn every_way_out_kills(role: Role) {
    if !root() {
        return;
    }
    let pid = c_long::from(std::process::id());
    let calls: &[(&str, c_long, [c_long; 4])] = &[
        ("fork", libc::SYS_clone, [c_long::from(libc::SIGCHLD), 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 4]),
        ("execve", libc::SYS_execve, [0; 4]),
        ("execveat", libc::SYS_execveat, [0; 4]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [c_long::from(libc::CLONE_NEWUSER), 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0; 4]),
        ("kill", libc::SYS_kill, [pid, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [pid, pid, 0, 0]),
        ("tkill", libc::SYS_tkill, [pid, 0, 0, 0]),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [0; 4]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 4]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [pid, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [pid, 0, 0, 0]),
        ("prctl", libc::SYS_prctl, [0; 4]),
        ("seccomp", libc::SYS_seccomp, [0; 4]),
        ("setuid", libc::SYS_setuid, [0; 4]),
        ("setresuid", libc::SYS_setresuid, [0; 4]),
        ("capset", libc::SYS_capset, [0; 4]),
        ("chroot", libc::SYS_chroot, [0; 4]),
        ("pivot_root", libc::SYS_pivot_root, [0; 4]),
        ("mount", libc::SYS_mount, [0; 4]),
        ("move_mount", libc::SYS_move_mount, [0; 4]),
        ("fsopen", libc::SYS_fsopen, [0; 4]),
        ("unlinkat", libc::SYS_unlinkat, [-1, 0, 0, 0]),
        ("mknodat", libc::SYS_mknodat, [-1, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, [0; 4]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0; 4]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 4]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 4]),
        ("keyctl", libc::SYS_keyctl, [0; 4]),
        ("add_key", libc::SYS_add_key, [0; 4]),
        ("personality", libc::SYS_personality, [0xffff_ffff, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0; 4]),
        ("reboot", libc::SYS_reboot, [0; 4]),
        ("a netlink socket", libc::SYS_socket, [16, 3, 0, 0]),
        ("a packet socket", libc::SYS_socket, [17, 3, 0, 0]),
        ("a vsock socket", libc::SYS_socket, [40, 1, 0, 0]),
        ("opening for writing", libc::SYS_openat, [-100, 0, 1, 0]),
        ("creating", libc::SYS_openat, [-100, 0, 0o100, 0]),
        ("opening below a descriptor", libc::SYS_openat, [3, 0, 0, 0]),
        ("executable memory", libc::SYS_mmap, [0, 4096, 5, 0x22]),
        ("memory made executable", libc::SYS_mprotect, [0, 0, 4, 0]),
        ("signals by fcntl", libc::SYS_fcntl, [0, 8, 1, 0]),
        ("TIOCSTI", libc::SYS_ioctl, [0, 0x5412, 0, 0]),
    ];
    for (what, number, [a, b, c, d]) in calls {
        assert_eq!(fate(role, *number, [*a, *b, *c, *d, 0, 0]), Fate::Killed, "{role:?}: {what}");
    }
}

/// Every way to break a condition of an allowed call.
fn broken(when: When) -> Vec<[c_long; 6]> {
    let with = |argument: u8, value: u32| {
        let mut arguments = passing(when);
        arguments[usize::from(argument)] = value.into();
        arguments
    };
    match when {
        When::Always => Vec::new(),
        // All that are near, and those far away: families of sockets and commands of fcntl are below 64.
        When::OneOf(argument, values) => {
            let near = (0..64).chain(values.iter().flat_map(|value| [value ^ 1, value ^ 0x8000_0000]));
            let all = near.chain([u32::MAX, 0x5412]);
            all.filter(|value| !values.contains(value)).map(|value| with(argument, value)).collect()
        }
        When::Without(argument, bits) => (0..32)
            .map(|bit| 1 << bit)
            .filter(|bit| bits & bit != 0)
            .map(|bit| with(argument, bit))
            .chain([with(argument, u32::MAX)])
            .collect(),
        When::OwnPid(argument) => {
            [0, 1, std::process::id(), u32::MAX].map(|value| with(argument, value)).to_vec()
        }
        When::Both(one, two) => {
            let rest = passing(when);
            let merged = |broken: [c_long; 6], of: When| {
                let index = argument(of);
                let mut arguments = rest;
                arguments[index] = broken[index];
                arguments
            };
            let one = broken(*one).into_iter().map(|arguments| merged(arguments, *one)).collect::<Vec<_>>();
            let two = broken(*two).into_iter().map(|arguments| merged(arguments, *two)).collect::<Vec<_>>();
            [one, two].concat()
        }
    }
}

fn argument(when: When) -> usize {
    match when {
        When::OneOf(argument, _) | When::Without(argument, _) | When::OwnPid(argument) => argument.into(),
        When::Always | When::Both(..) => panic!("it has not one argument"),
    }
}

/// Arguments that pass the filter, and that the kernel refuses afterwards.
fn passing(when: When) -> [c_long; 6] {
    let mut arguments = NOTHING;
    match when {
        When::Always | When::OwnPid(_) => {}
        When::Without(argument, _) => arguments[usize::from(argument)] = 0,
        When::OneOf(argument, values) => arguments[usize::from(argument)] = values[0].into(),
        When::Both(one, two) => {
            for part in [one, two] {
                arguments[argument(*part)] = passing(*part)[argument(*part)];
            }
        }
    }
    arguments
}

fn every_other_argument_kills(role: Role) {
    if !root() {
        return;
    }
    for call in role.calls() {
        for arguments in broken(call.when) {
            assert_eq!(
                fate(role, call.number, arguments),
                Fate::Killed,
                "{role:?} {} {arguments:?}",
                call.name
            );
        }
    }
}

fn every_allowed_call_passes(role: Role) {
    if !root() {
        return;
    }
    // Those that end or suspend the process when called like this.
    let special = ["exit", "exit_group", "rt_sigreturn", "ppoll", "poll", "rseq", "brk", "munmap", "tgkill"];
    for call in role.calls().filter(|call| !special.contains(&call.name)) {
        assert_eq!(fate(role, call.number, passing(call.when)), Fate::Goes, "{role:?} {}", call.name);
    }
}

macro_rules! held {
    ($($role:ident $kind:ident),* $(,)?) => {
        $(
            /// Fails when: a call, or an argument of one, is let through that is not in the list of this role, or one
            /// that is there ends the process.
            mod $role {
                use super::*;

                #[test]
                fn every_other_number_kills() {
                    super::every_other_number_kills(Role::$kind);
                }

                #[test]
                fn every_other_argument_kills() {
                    super::every_other_argument_kills(Role::$kind);
                }

                #[test]
                fn every_way_out_kills() {
                    super::every_way_out_kills(Role::$kind);
                }

                #[test]
                fn every_allowed_call_passes() {
                    super::every_allowed_call_passes(Role::$kind);
                }
            }
        )*
    };
}

held!(worker Worker, session Session, tunnel Tunnel, keeper Keeper, stack Stack, inside Inside);
