//! The flags, by name.

/// A flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Long name; the key in files.
    pub long: &'static str,
    /// Short letter.
    pub short: Option<char>,
    /// What it takes.
    pub shape: Shape,
    /// Its value when it is not given.
    pub default: &'static str,
    /// What it does, one line for its help.
    pub help: &'static str,
    /// What is otherwise here than in ssh2incus; empty when nothing is.
    pub note: &'static str,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// A value.
    Value,
}

const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, shape: Shape::Switch, default: "false", help, note: "" }
}

const fn value(long: &'static str, short: Option<char>, default: &'static str, help: &'static str) -> Flag {
    Flag { long, short, shape: Shape::Value, default, help, note: "" }
}

impl Flag {
    const fn noted(self, note: &'static str) -> Self {
        Self { note, ..self }
    }
}

const WEB: &str = "there is no web interface: this is not carried over";
const PPROF: &str = "there is no profiler: metrics and perf serve instead";
const SESSIONS_TOO: &str = "it counts for sessions too, not only for checks of the server";

/// All of them, in the order in which they are printed.
pub const FLAGS: &[Flag] = &[
    value(
        "listen",
        Some('l'),
        ":2222",
        "Where to listen, [ADDRESS]:PORT; without an address, on all of them",
    ),
    switch("master", Some('m'), "Changes nothing: sessions outlive a restart in any case")
        .noted("sessions outlive a restart with and without it"),
    value("socket", Some('s'), "", "Unix socket of the server").noted(SESSIONS_TOO),
    value("url", Some('u'), "", "URL of the server instead, https://HOST:PORT").noted(SESSIONS_TOO),
    value("client-cert", Some('c'), "", "Certificate that the server at this URL knows, a file"),
    value("client-key", Some('k'), "", "Its key, a file"),
    value(
        "server-cert",
        Some('t'),
        "",
        "Certificate of the server at this URL, a file; without one the host's authorities count",
    ),
    value("remote", Some('r'), "", "Server of a login that names none, as in `incus remote list`"),
    value(
        "groups",
        Some('g'),
        "incus,incus-admin",
        "Groups of the host that may log in; root always may; \"\" for everybody",
    ),
    switch("noauth", None, "Let in whoever has any key; only on a loopback address")
        .noted("only on a loopback address, and never for /shell"),
    switch("noauth-anywhere", None, "With --noauth, on other addresses too"),
    switch("instance-auth", Some('I'), "Take the keys of the user inside the instance too")
        .noted("who logs in that way reaches only that user of that instance"),
    switch("inauth", None, "Another name of --instance-auth").noted("another name of instance-auth"),
    switch("password-auth", Some('P'), "Take the password of the user inside the instance")
        .noted("passwords are those of the instance's user, not those of the host"),
    value(
        "auth-methods",
        None,
        "",
        "Methods that must all succeed, in this order: publickey,password,keyboard-interactive",
    ),
    switch("allow-create", Some('C'), "Let logins make instances"),
    switch("chroot-sftp", None, "Show SFTP of others than root their home alone"),
    value("shell", Some('S'), "", "How a login shell is started: login, su, sush, or as the user's own")
        .noted("it never runs as root with variables of the client"),
    value(
        "term-mux",
        Some('T'),
        "builtin",
        "What keeps sessions that stay: builtin, or tmux or screen of the instance, installed where it is missing",
    )
    .noted("what is not there and cannot be installed is done without: the gateway's own program keeps the session"),
    switch("banner", Some('b'), "Show a text before login: banner.txt beside portway.toml, or our own")
        .noted("it is shown whether or not the instance exists"),
    switch(
        "welcome",
        Some('w'),
        "Greet on a terminal after login: welcome.txt beside portway.toml, or our own",
    ),
    value("idle-timeout", None, "0", "End a connection without any traffic after this time; 0 for never")
        .noted("off unless it is set: an idle shell stays"),
    value("healthcheck", Some('H'), "", "Ask the server every so often whether it is there"),
    switch("web", Some('W'), "").noted(WEB),
    value("web-listen", None, "127.0.0.1:2280", "").noted(WEB),
    value("web-auth", None, "", "").noted(WEB),
    switch("pprof", None, "").noted(PPROF),
    value("pprof-listen", None, ":6060", "").noted(PPROF),
    switch("dump", None, "Print what is set, as YAML, and end"),
    switch("dump-create", None, "Print how instances are made, as YAML, and end"),
    value("recordings", None, "", "Folder of recordings; without one, recordings beside Portway's state"),
    value("recording-max", None, "64", "Longest recording of a session, MiB"),
    value(
        "recording-failure",
        None,
        "end",
        "What a session does that is to be recorded and cannot be, or no longer: end, go-on",
    ),
    value("dialect", None, "auto", "How logins are read: auto, 0.7, 0.10"),
    switch("host-key", None, "Offer the host's own keys of /etc/ssh besides"),
    switch("replace", None, "Take the place of the gateway that runs: its listener and its sessions"),
    switch(
        "drain",
        None,
        "Have the gateway that runs take nobody new and end with its last connection, and wait for that",
    ),
    value(
        "drain-timeout",
        None,
        "0",
        "With --drain, end connections that are left after this time; 0 for never",
    ),
    switch("debug", Some('d'), "Log more").noted("variables of sessions are never logged"),
    switch("help", Some('h'), "Print help"),
    switch("version", Some('v'), "Print the version"),
];

impl Flag {
    /// The flag of a long name.
    #[must_use]
    pub fn find(long: &str) -> Option<&'static Self> {
        FLAGS.iter().find(|flag| flag.long == long)
    }

    /// Whether its value must not be printed.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.long == "web-auth"
    }
}
