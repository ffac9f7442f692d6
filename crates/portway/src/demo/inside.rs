//! The first process in the demo's namespaces: its network namespace is the demo's host.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use portway_config::Paths;
use portway_control::Client;
use portway_control::api::{AddDevice, Device};
use portway_model::InstanceKey;
use portway_sys::netns;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{set_child_subreaper, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use super::{failed, instance, traffic, view};
use crate::failure::{Outcome, Stop};
use crate::output::{Out, human};
use crate::role;
use crate::session;

/// Ports of the demo's host.
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 5353;

/// Bytes of the round that shows the half-close.
const ROUND_BYTES: usize = 1 << 20;

/// Longest wait for the daemon to answer.
const DAEMON_WAIT: Duration = Duration::from_secs(10);

/// Time between two pictures.
const PICTURE: Duration = Duration::from_millis(500);

/// The role.
pub(crate) fn inside(arguments: &[String]) -> ExitCode {
    let once = arguments.iter().any(|argument| argument == "--once");
    let done = enter().and_then(|()| play(once));
    // The pid namespace does this for us, where there is one.
    if std::process::id() != 1 {
        end_children();
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.report(),
    }
}

/// Makes this process the one whose end is everybody's, and its namespaces usable.
fn enter() -> Outcome {
    let first = std::process::id() == 1;
    // When the stage is killed: the kernel ends a pid namespace with its first process; otherwise there is
    // clearing up to do.
    let on_death = if first { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
    set_parent_process_death_signal(Some(on_death))
        .map_err(|error| failed("watch the parent", &error.into()))?;
    if first {
        // Nothing we mount may be seen outside.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|error| failed("keep mounts private", &error.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None).map_err(|error| failed("mount /proc", &error.into()))?;
    } else {
        set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| failed("take in orphans", &error.into()))?;
    }
    netns::loopback_up().map_err(|error| failed("bring the loopback interface up", &error))
}

/// Ends whatever is left below this process, orphans of orphans included.
fn end_children() {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    loop {
        let children = fs::read_to_string(&path).unwrap_or_default();
        let pids: Vec<Pid> =
            children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // Both fail only for one that has gone.
            let _gone = kill(pid, Signal::SIGKILL);
            let _gone = waitpid(pid, Some(WaitPidFlag::empty()));
        }
    }
}

/// What runs while the demo does.
struct Cast {
    client: Client,
    instance: InstanceKey,
    socket: PathBuf,
    /// Dropped at the end: the instance ends when its standard input does.
    _instance: Child,
}

fn play(once: bool) -> Outcome {
    let paths = session::paths()?;
    let runtime = session::runtime()?;
    let mut out = Out::new();
    runtime.block_on(async {
        // From here on a signal is an orderly end.
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).map_err(|error| failed("listen for signals", &error)))
            .into_iter()
            .collect::<Outcome<Vec<_>>>()?;
        let [interrupt, terminate, hangup] = ends.as_mut_slice() else {
            return Err(Stop::refused("cannot listen for signals"));
        };
        // The stage has them blocked, and that is inherited.
        SigSet::all().thread_unblock().map_err(|errno| failed("let signals in", &errno.into()))?;
        tokio::select! {
            done = show(&paths, once, &mut out) => done,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        }
    })
}

async fn show(paths: &Paths, once: bool, out: &mut Out) -> Outcome {
    let cast = start(paths).await?;
    out.text(
        "Two throw-away network namespaces: a host, where you are, and an instance with a tcp, a udp and a\n\
         unix service. A daemon of their own publishes the services on the host. INSTANCE below is\n",
    )?;
    out.line(&format!("{}.\n", cast.instance))?;
    add_devices(&cast, out).await?;
    check(&cast, out).await?;
    if once {
        let devices = devices(&cast.client).await?;
        let text = view::totals(&devices, out.look);
        out.text(&text)?;
        return out.line("\nAll of it came back as it was sent. Nothing of this is left behind.");
    }
    out.line("Live traffic; Ctrl-C ends it and leaves nothing behind.\n")?;
    tokio::select! {
        never = load(&cast) => never,
        stopped = watch(&cast, out) => stopped,
    }
}

async fn start(paths: &Paths) -> Outcome<Cast> {
    let mut held = role::ourselves()
        .arg(role::DEMO_INSTANCE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("start the instance", &error))?;
    let mut ready = [0];
    let answer = held.stdout.take().map_or(Ok(0), |mut stdout| stdout.read(&mut ready));
    if !matches!(answer, Ok(1)) || ready != [instance::READY] {
        return Err(Stop::refused("the demo's instance did not start"));
    }
    let name = format!("netns:/proc/{}/ns/net", held.id());
    let key = name.parse().map_err(|error| Stop::refused(format!("{name}: {error}")))?;
    let folder = paths.socket.parent().unwrap_or(Path::new("/tmp"));
    let log = folder.join("daemon.log");
    let file = File::create(&log).map_err(|error| failed("write the daemon's log", &error))?;
    let errors = file.try_clone().map_err(|error| failed("write the daemon's log", &error))?;
    let mut daemon = role::ourselves()
        .arg("daemon")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|error| failed("start the daemon", &error))?;
    let client = Client::new(&paths.socket);
    let deadline = Instant::now() + DAEMON_WAIT;
    while let Err(error) = client.server().await {
        if daemon.try_wait().map_err(|error| failed("watch the daemon", &error))?.is_some() {
            return Err(Stop::refused(format!("the demo's daemon ended: {}", last_words(&log))));
        }
        if Instant::now() > deadline {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(Cast { client, instance: key, socket: folder.join("app.sock"), _instance: held })
}

/// Why the daemon ended: its last error, else its last line.
fn last_words(log: &Path) -> String {
    let said = fs::read_to_string(log).unwrap_or_default();
    let error = said.lines().rev().find_map(|line| line.strip_prefix("error: "));
    error.or(said.lines().last()).unwrap_or("it said nothing").to_owned()
}

/// Adds the three devices, as `portway device add` does.
async fn add_devices(cast: &Cast, out: &mut Out) -> Outcome {
    let wanted = [
        ("web", format!("tcp:0.0.0.0:{TCP_PORT}"), format!("tcp:127.0.0.1:{}", instance::TCP_PORT)),
        ("dns", format!("udp:0.0.0.0:{UDP_PORT}"), format!("udp:127.0.0.1:{}", instance::UDP_PORT)),
        ("app", format!("unix:{}", cast.socket.display()), format!("unix:@{}", instance::UNIX_NAME)),
    ];
    for (name, listen, connect) in wanted {
        let begin = Instant::now();
        let body = AddDevice {
            instance: cast.instance.clone(),
            name: name.parse().map_err(|error| Stop::usage(format!("{name}: {error}")))?,
            keys: [("listen", &listen), ("connect", &connect)]
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .into(),
        };
        cast.client.add(&body).await?;
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        out.line(&format!("$ portway device add INSTANCE {name} listen={listen} connect={connect}"))?;
        out.line(&format!("  works after {took:.1} ms"))?;
    }
    out.line("")
}

/// One round through every device, compared byte by byte.
async fn check(cast: &Cast, out: &mut Out) -> Outcome {
    let size = human::bytes(u64::try_from(ROUND_BYTES).unwrap_or(u64::MAX));
    let told = |what: &str| {
        format!("{what}: sent {size}, shut my side down, and only then got it all back: half-close works")
    };
    traffic::tcp(TCP_PORT, ROUND_BYTES, 1, Duration::ZERO)
        .await
        .map_err(|error| failed("get an answer over tcp", &error))?;
    out.line(&told("tcp"))?;
    traffic::unix(&cast.socket, ROUND_BYTES, 1, Duration::ZERO)
        .await
        .map_err(|error| failed("get an answer over unix", &error))?;
    out.line(&told("unix"))?;
    traffic::udp(UDP_PORT, &traffic::DATAGRAM_SIZES, Duration::ZERO)
        .await
        .map_err(|error| failed("get an answer over udp", &error))?;
    let sizes = traffic::DATAGRAM_SIZES.map(|size| size.to_string()).join(", ");
    out.line(&format!("udp: datagrams of {sizes} bytes came back whole\n"))
}

/// Traffic until something fails.
async fn load(cast: &Cast) -> Outcome {
    let pause = Duration::from_millis(40);
    let web = async {
        loop {
            traffic::tcp(TCP_PORT, 2 << 20, 24, pause).await.map_err(|error| failed("use tcp", &error))?;
        }
    };
    let app = async {
        loop {
            traffic::unix(&cast.socket, 256 << 10, 24, pause)
                .await
                .map_err(|error| failed("use unix", &error))?;
        }
    };
    let sizes = [64, 512, 1472].repeat(100);
    let dns = async {
        loop {
            traffic::udp(UDP_PORT, &sizes, pause).await.map_err(|error| failed("use udp", &error))?;
        }
    };
    tokio::select! {
        ended = web => ended,
        ended = app => ended,
        ended = dns => ended,
    }
}

/// Pictures of the devices: in place on a terminal, else one after the other.
async fn watch(cast: &Cast, out: &mut Out) -> Outcome {
    let mut seen = view::Seen::new();
    let mut drawn = 0;
    let mut last = Instant::now();
    loop {
        let devices = devices(&cast.client).await?;
        let picture = view::rates(&devices, &seen, last.elapsed(), out.look);
        let text = if drawn > 0 && out.look.width.is_some() {
            view::back(drawn) + &picture
        } else {
            picture.clone()
        };
        out.text(&text)?;
        drawn = picture.lines().count();
        seen = view::seen(&devices);
        last = Instant::now();
        tokio::time::sleep(PICTURE).await;
    }
}

async fn devices(client: &Client) -> Outcome<Vec<Device>> {
    Ok(client.devices(None).await?)
}
