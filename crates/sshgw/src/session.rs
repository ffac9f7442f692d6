//! The process of one connection: speaks SSH, and has nothing but that connection and a link to the broker.
//!
//! It is started as root and gives up its ids, its capabilities, every path and most system calls before it reads the
//! first byte of a client. The programs it serves run elsewhere: it holds their ends, which the broker opened, and
//! carries bytes between them and the channels. So the broker may end and be started again meanwhile.
//!
//! - `link`: questions to the broker; `algorithms`: what SSH may be made of;
//! - `login`: who somebody is; `handler`: what a client asks for; `program`: a channel with a program behind it;
//! - `channels`: what is open; `exec`: a channel with a program behind it that the server runs;
//! - `helper`: what is started inside for all of them; `inside`: a channel with a process of it behind it;
//! - `forward`: a channel with a connection inside behind it; `listeners`: where such connections come to;
//! - `lent`: the client's agent and display, for one program;
//! - `stored`: a channel with the files of an instance behind it that does not run;
//! - `transfers`: which files go over a channel; `recorder`: what is shown on one is written down;
//! - `inbox`: what waits for a program, bounded; `paced`: the connection at that pace; `signals`: their names and numbers.

mod algorithms;
mod asked;
mod channels;
mod exec;
mod forward;
mod handler;
mod helper;
mod inbox;
mod inside;
mod lent;
mod link;
mod listeners;
mod login;
mod paced;
mod program;
mod recorder;
mod shell;
mod signals;
mod stored;
mod teller;
mod transfers;

use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use portway_sys::process;
use portway_sys::sandbox::{Refused, Role};
use portway_sys::sched;
use portway_sys::seqpacket::Channel;
use portway_sys::sockopt;
use russh::Disconnect;
use tokio::net::TcpStream;

use crate::confine::confine;
use crate::logging;
use crate::options::Method;
use crate::wire::{self, Init, PROTOCOL_VERSION};
use handler::Client;
use link::Link;
use paced::Paced;

/// How the program is started again for this.
pub(crate) const ROLE: [&str; 2] = ["ssh", "session"];

/// The client.
pub(crate) const CONNECTION_FD: i32 = process::FIRST_FD;

/// The broker.
pub(crate) const CHANNEL_FD: i32 = process::FIRST_FD + 1;

/// How long programs get to end once their client has gone, and some more.
const AFTERMATH: Duration = Duration::from_secs(20);

/// Why a session ends before its time.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("a session is started by the gateway only")]
    NotStarted(#[source] io::Error),
    #[error("no first message of this version")]
    Init,
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    #[error(transparent)]
    NotConfined(#[from] Refused),
    #[error("the host key cannot be used")]
    Key(#[source] russh::keys::ssh_key::Error),
}

/// Whether `arguments` are those of this role.
#[must_use]
pub fn is_role(arguments: &[String]) -> bool {
    arguments.iter().map(String::as_str).eq(ROLE)
}

/// Role `portway ssh session`: fd 3 is the connection, fd 4 the link to the broker.
#[must_use]
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "session ended");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), SessionError> {
    let system = |what| move |source| SessionError::System(what, source);
    let connection = process::inherited(CONNECTION_FD).map_err(SessionError::NotStarted)?;
    let channel =
        process::inherited(CHANNEL_FD).and_then(Channel::from_fd).map_err(SessionError::NotStarted)?;
    let mut packet = Vec::new();
    channel.recv(&mut packet).map_err(SessionError::NotStarted)?;
    let (init, _): (Init, _) = wire::decode(&packet).ok_or(SessionError::Init)?;
    if init.version != PROTOCOL_VERSION {
        return Err(SessionError::Init);
    }
    logging::start(&init.log);
    let keys = init.host_keys.iter().map(russh::keys::PrivateKey::from_openssh);
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(SessionError::Key)?;
    // What the runtime needs is made before it is forbidden.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("start"))?;
    let _context = runtime.enter();
    let stream = StdStream::from(connection);
    stream.set_nonblocking(true).map_err(system("use the connection"))?;
    let stream = TcpStream::from_std(stream).map_err(system("use the connection"))?;
    let link = Arc::new(Link::new(channel).map_err(system("use the link"))?);
    confine(Role::Session, "portway-ssh", init.ids)?;
    let setting = Setting {
        grace: Duration::from_secs(init.grace_secs),
        idle: Some(Duration::from_secs(init.idle_secs)).filter(|limit| !limit.is_zero()),
        banner: init.banner,
    };
    runtime.block_on(converse(stream, keys, link, init.methods, setting));
    Ok(())
}

/// Has a session go before what runs for longer at a time, floods and their clients among it: what somebody types is on
/// its way through several processes, and would wait in each of them otherwise. It gets no more of the processor. Until then
/// it lets others go first, as the gateway does that has started it.
fn goes_first() {
    // An old kernel, or one that is asked not to: it is served like anybody else.
    let _as_before = sched::promptly();
}

/// Has the client go on at once.
fn acknowledge(stream: &TcpStream) {
    // The kernel does it in its own time.
    let _later = sockopt::acknowledge(stream.as_fd());
}

/// How a client is served.
struct Setting {
    grace: Duration,
    /// Until a connection without traffic ends.
    idle: Option<Duration>,
    banner: String,
}

/// Serves the client until it has gone and its programs have ended.
async fn converse(
    stream: TcpStream,
    keys: Vec<russh::keys::PrivateKey>,
    link: Arc<Link>,
    methods: Vec<Method>,
    setting: Setting,
) {
    let Setting { grace, idle, banner } = setting;
    let mut config = algorithms::config(keys, &methods);
    if idle.is_some() {
        // An answer that we have asked for would be traffic.
        config.keepalive_interval = None;
    }
    let config = Arc::new(config);
    let client = Client::new(Arc::clone(&link), methods, banner);
    let (logged_in, programs, pace) = (client.logged_in(), client.programs(), client.pace());
    let (helper, forwards) = (client.helper(), client.forwards());
    let ending = Arc::clone(&link);
    let reading = tokio::spawn(async move { link.read().await });
    let serving = async {
        let paced = Paced::new(stream, pace).idle_after(idle).prompt(acknowledge);
        match russh::server::run_stream(config, paced, client).await {
            Ok(session) => {
                let handle = session.handle();
                let told = async {
                    let text = ending.ending().await;
                    // Who has gone need not be told.
                    let _gone = handle.disconnect(Disconnect::ByApplication, text, String::new()).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    ended = session => ended,
                    () = told => Ok(()),
                }
            }
            Err(error) => Err(error),
        }
    };
    let late = async {
        tokio::time::sleep(grace).await;
        if logged_in.is_cancelled() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
            }
        }
        () = late => {}
    }
    programs.close();
    forwards.close();
    let ended = async {
        programs.wait().await;
        forwards.wait().await;
        helper.close().await;
    };
    let _all_or_enough = tokio::time::timeout(AFTERMATH, ended).await;
    reading.abort();
}
