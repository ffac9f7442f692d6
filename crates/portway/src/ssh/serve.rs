//! `portway ssh serve`: arguments and settings to the gateway's own entry.

use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portway_config::files::FileError;
use portway_config::paths::DIR_VARIABLE;
use portway_config::{LogFilter, Paths, Settings};
use portway_control::api::FailureKind;
use portway_daemon::Companion;
use portway_incus::Client;
use portway_sshgw::broker::{self, Draining, ServeError, ServeOptions, ServerPlaces};
use portway_sshgw::create::{CreateConfig, CreateConfigError};
use portway_sshgw::options::{Flag, Options, Values};
use portway_sshgw::remotes::{self, At, LOCAL, Named, RemoteError, Remotes, RemotesError};
use portway_sshgw::{auth, create, policy};

use crate::cli::ssh::ServeArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::output::Out;
use crate::service::{settings, wrong_settings};
use crate::session::{paths, wrong_paths};

/// Flags about certificates, and the variables that say the same.
const CERTIFICATES: [(&str, &str); 3] = [
    ("client-cert", "INCUS_CLIENT_CERT"),
    ("client-key", "INCUS_CLIENT_KEY"),
    ("server-cert", "INCUS_SERVER_CERT"),
];

/// Runs the gateway until it is told to end.
pub(super) fn run(args: &ServeArgs) -> Outcome {
    if args.values.has("version") {
        return Out::new().line(&format!("portway {}", env!("CARGO_PKG_VERSION")));
    }
    let paths = paths()?;
    let settings = settings(&paths)?;
    let values = args.values.clone().over(of_settings(&paths, &settings)?);
    let values = with_environment(values);
    let options = checked(&values)?;
    if values.is_on("dump").is_ok_and(|on| on) {
        return Out::new().text(&values.dump());
    }
    if values.is_on("dump-create").is_ok_and(|on| on) {
        return dump_create(&create::path(&paths));
    }
    if args.values.is_on("drain").is_ok_and(|on| on) {
        return drain(&sessions_dir(&paths), &values, options.drain_timeout);
    }
    for (flag, note) in values.notes() {
        // Whoever reads along may go; the gateway stays.
        let _unheard = writeln!(io::stderr(), "note: --{flag}: {note}");
    }
    paths.prepare().map_err(|error| wrong_paths(&error))?;
    let servers = servers(&options, &settings)?;
    if let Some(At::Socket(path)) = &servers.own
        && let Some(what) = missing(path)
    {
        let path = path.display();
        let _unheard =
            writeln!(io::stderr(), "warning: {path} {what}: no instance is reached until it is one");
    }
    // Only root can become somebody else.
    let ids = if rustix::process::geteuid().is_root() {
        Some(settings.daemon.user.lookup().map_err(|error| wrong_settings(&error))?)
    } else {
        None
    };
    let options = ServeOptions {
        servers,
        log: log(&options, settings.daemon.log),
        options: Arc::new(options),
        policy: policy::path(&paths),
        create: create::path(&paths),
        made: paths.state.with_file_name("ssh-made"),
        history: paths.state.with_file_name("ssh-history"),
        auth: auth::settings::path(&paths),
        sessions: sessions_dir(&paths),
        banner: paths.config.with_file_name("banner.txt"),
        welcome: paths.config.with_file_name("welcome.txt"),
        host_key: paths.ssh_host_key,
        audit: paths.ssh_audit,
        ids,
        replace: values.is_on("replace").unwrap_or_default(),
    };
    broker::serve(options, |address| {
        let mut stdout = io::stdout();
        let _unheard = writeln!(stdout, "ready {address}").and_then(|()| stdout.flush());
    })
    .map_err(|error| failed(&error))
}

/// Why there is no server at a path, as far as can be seen.
fn missing(path: &Path) -> Option<&'static str> {
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => None,
        Ok(_) => Some("is no socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("does not exist"),
        // Whoever asks the server is told.
        Err(_) => None,
    }
}

/// Has the gateway that runs end with its last connection, and waits for that.
fn drain(dir: &Path, values: &Values, limit: Option<Duration>) -> Outcome {
    if values.is_on("replace").is_ok_and(|on| on) {
        return Err(Stop::usage("drain and replace cannot stand together"));
    }
    let draining = Draining::begin(dir, limit).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Stop::of(FailureKind::Unreachable, "no gateway runs"),
        io::ErrorKind::Unsupported => {
            Stop::refused("the gateway that runs is of a version that cannot be drained")
                .hint("SIGTERM ends it alone; connections go on")
        }
        io::ErrorKind::PermissionDenied => {
            Stop::refused("cannot speak to the gateway: permission denied").hint("run as root")
        }
        _ => Stop::refused(format!("cannot speak to the gateway: {}", chain(&error))),
    })?;
    let left = match draining.connections {
        0 => "none is left".to_owned(),
        1 => "1 connection is left".to_owned(),
        many => format!("{many} connections are left"),
    };
    Out::new().line(&format!("draining: nobody new is taken, {left}"))?;
    if draining.is_kept {
        // Whoever reads along may go.
        let _unheard =
            writeln!(io::stderr(), "note: systemd keeps the socket: who connects waits for the next gateway");
    }
    draining.wait().map_err(|error| Stop::refused(format!("cannot see the end: {}", chain(&error))))
}

/// How instances are made.
fn dump_create(path: &Path) -> Outcome {
    let config = CreateConfig::load(path).map_err(|error| match &error {
        CreateConfigError::Syntax { .. } => Stop::usage(chain(&error)),
        CreateConfigError::File(file) => unusable(file),
    })?;
    Out::new().text(&config.dump())
}

/// The gateway as the daemon knows it. With `daemon = true` its settings are checked before the daemon starts.
pub(crate) fn companion(paths: &Paths, settings: &Settings) -> Outcome<Companion> {
    let is_wanted = settings.ssh.daemon;
    if is_wanted {
        checked(&of_settings(paths, settings)?)?;
    }
    let passed = [
        &["PATH", "HOME", DIR_VARIABLE, "INCUS_SOCKET", "INCUS_DIR", "INCUS_CONF", "LXD_CONF"][..],
        &CERTIFICATES.map(|(_, variable)| variable),
    ]
    .concat();
    let env = passed.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    Ok(Companion {
        is_wanted,
        args: ["ssh", "serve", "--replace"].map(str::to_owned).to_vec(),
        env: env.collect(),
        dir: sessions_dir(paths),
        running: broker::running,
        metrics: broker::metrics,
    })
}

/// What `[ssh]` says, and below it the settings that are the daemon's too.
fn of_settings(paths: &Paths, settings: &Settings) -> Outcome<Values> {
    for flag in &settings.ssh.flags {
        if Flag::find(&flag.name).is_none() {
            let at = format!("{}:{}", paths.config.display(), flag.line);
            let stop = Stop::usage(format!("{at}: unknown key `{}` in [ssh]", flag.name.escape_debug()));
            return Err(stop.hint("the keys are the long flags of `portway ssh serve --help`, and `daemon`"));
        }
        if flag.name == "drain" {
            let at = format!("{}:{}", paths.config.display(), flag.line);
            return Err(Stop::usage(format!(
                "{at}: `drain` is no setting: it is said to a gateway that runs"
            )));
        }
    }
    let pairs = settings.ssh.flags.iter().map(|flag| (flag.name.clone(), flag.value.clone()));
    Values::from_pairs(pairs).map_err(|error| Stop::usage(format!("{}: {error}", paths.config.display())))
}

/// Values that can be served.
fn checked(values: &Values) -> Outcome<Options> {
    Options::new(values).map_err(|error| {
        let stop = Stop::usage(error.to_string());
        match error.hint() {
            Some(hint) => stop.hint(hint),
            None => stop,
        }
    })
}

/// What the environment says of the server at a URL, where nothing else does.
fn with_environment(values: Values) -> Values {
    if values.text("url").is_empty() {
        return values;
    }
    let given = CERTIFICATES.into_iter().filter_map(|(flag, variable)| {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
        Some((flag.to_owned(), value))
    });
    match Values::from_pairs(given) {
        Ok(lower) => values.over(lower),
        Err(_) => values,
    }
}

/// The server of a login that names none, of a gateway without flags.
pub(super) fn usual_remote() -> Outcome<String> {
    let paths = paths()?;
    let settings = settings(&paths)?;
    let values = of_settings(&paths, &settings)?;
    let given = |name| Some(values.text(name)).filter(|text| !text.is_empty());
    let is_named = given("socket").is_some() || given("url").is_some() || settings.incus.socket.is_some();
    let known = remotes::folder(|name| std::env::var(name).ok()).map(|folder| Remotes::load(&folder));
    let known = known.transpose().map_err(|error| malformed(&error))?.unwrap_or_default();
    let usual = known.default.filter(|_| !is_named);
    Ok(given("remote").map(str::to_owned).or(usual).unwrap_or_else(|| LOCAL.to_owned()))
}

/// A server as logins name it, for a command that ends, and whether it is spoken to over a network; without a name that
/// of logins that name none.
pub(super) fn server(name: Option<&str>) -> Outcome<(Client, bool)> {
    let paths = paths()?;
    let settings = settings(&paths)?;
    let options = checked(&with_environment(of_settings(&paths, &settings)?))?;
    let places = servers(&options, &settings)?;
    let name = name.map_or_else(|| places.default.clone(), str::to_owned);
    broker::server_client(&name, places).map_err(|error| match &error {
        RemoteError::Unknown(_) => {
            Stop::of(FailureKind::Missing, chain(&error)).hint("`incus remote list` lists servers")
        }
        RemoteError::Unusable(..) => Stop::refused(chain(&error)),
    })
}

/// Where servers are, and which one counts where a login names none.
fn servers(options: &Options, settings: &Settings) -> Outcome<ServerPlaces> {
    let env = |name: &str| std::env::var(name).ok();
    let named = options.socket.clone().or_else(|| settings.incus.socket.clone()).map(At::Socket);
    let named = named.or_else(|| options.url.clone().map(At::Https));
    let folder = remotes::folder(env);
    let known = match &folder {
        Some(folder) => Remotes::load(folder).map_err(|error| malformed(&error))?,
        None => Remotes::default(),
    };
    // Who names a server means it.
    let usual = known.default.clone().filter(|_| named.is_none());
    let default = options.remote.clone().or(usual).unwrap_or_else(|| LOCAL.to_owned());
    let own = named.or_else(|| Client::discover(env).map(At::Socket));
    let used = match known.find(&default) {
        Ok(Named::At(at)) => Some(at),
        _ => own.clone(),
    };
    if let Some(At::Https(https)) = used {
        https.check().map_err(|error| unusable(&error))?;
    }
    match known.find(&default) {
        Ok(Named::Own) if own.is_none() => {
            let stop = Stop::of(FailureKind::Unreachable, "there is no Incus on this host");
            Err(stop.hint("INCUS_SOCKET names its socket, --remote or --url another server"))
        }
        Ok(_) => Ok(ServerPlaces { own, folder, default }),
        Err(error) => {
            let stop = Stop::usage(error.to_string());
            let hint =
                folder.map(|folder| format!("servers are those in {}", folder.join("config.yml").display()));
            Err(hint.into_iter().fold(stop, Stop::hint))
        }
    }
}

fn malformed(error: &RemotesError) -> Stop {
    match error {
        RemotesError::Syntax { .. } => Stop::usage(chain(error)),
        RemotesError::File(file) => unusable(file),
    }
}

fn unusable(error: &FileError) -> Stop {
    let text = chain(error);
    let stop = if error.is_malformed() { Stop::usage(text) } else { Stop::refused(text) };
    error.hint().into_iter().fold(stop, |stop, hint| stop.hint(hint))
}

/// What is logged.
fn log(options: &Options, log: LogFilter) -> LogFilter {
    if options.debug { LogFilter::new("info,portway_sshgw=debug").unwrap_or(log) } else { log }
}

/// Where sessions are noted: beside the control socket.
pub(crate) fn sessions_dir(paths: &Paths) -> PathBuf {
    paths.socket.with_file_name("ssh")
}

/// Where recordings are, of a gateway without flags.
pub(super) fn recordings_dir() -> Outcome<PathBuf> {
    let paths = paths()?;
    let settings = settings(&paths)?;
    let options = checked(&of_settings(&paths, &settings)?)?;
    Ok(options.recording.folder(&paths.state))
}

fn failed(error: &ServeError) -> Stop {
    let stop = Stop::refused(chain(error));
    match error {
        ServeError::Rules(_) => Stop::usage(chain(error)),
        ServeError::Running { .. } => stop.hint("`--replace` takes its place, and keeps its sessions"),
        ServeError::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            stop.hint("run as root, or listen on a port from 1024 on")
        }
        _ => stop,
    }
}
