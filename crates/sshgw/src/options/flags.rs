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

const fn switch(long: &'static str, short: Option<char>, note: &'static str) -> Flag {
    Flag { long, short, shape: Shape::Switch, default: "false", note }
}

const fn value(long: &'static str, short: Option<char>, default: &'static str, note: &'static str) -> Flag {
    Flag { long, short, shape: Shape::Value, default, note }
}

const WEB: &str = "there is no web interface: this is not carried over";
const PPROF: &str = "there is no profiler: metrics and perf serve instead";

/// All of them, in the order in which they are printed.
pub const FLAGS: &[Flag] = &[
    value("listen", Some('l'), ":2222", ""),
    switch("master", Some('m'), "sessions outlive a restart with and without it"),
    value("socket", Some('s'), "", "it counts for sessions too, not only for checks of the server"),
    value("url", Some('u'), "", "it counts for sessions too, not only for checks of the server"),
    value("client-cert", Some('c'), "", ""),
    value("client-key", Some('k'), "", ""),
    value("server-cert", Some('t'), "", ""),
    value("remote", Some('r'), "", ""),
    value("groups", Some('g'), "incus,incus-admin", ""),
    switch("noauth", None, "only on a loopback address, and never for /shell"),
    switch("noauth-anywhere", None, ""),
    switch("instance-auth", Some('I'), "who logs in that way reaches only that user of that instance"),
    switch("inauth", None, "another name of instance-auth"),
    switch("password-auth", Some('P'), "passwords are those of the instance's user, not those of the host"),
    value("auth-methods", None, "", ""),
    switch("allow-create", Some('C'), ""),
    switch("chroot-sftp", None, ""),
    value("shell", Some('S'), "", "it never runs as root with variables of the client"),
    value("term-mux", Some('T'), "tmux", ""),
    switch("banner", Some('b'), "it is shown whether or not the instance exists"),
    switch("welcome", Some('w'), ""),
    value("idle-timeout", None, "0", "off unless it is set: an idle shell stays"),
    value("healthcheck", Some('H'), "", ""),
    switch("web", Some('W'), WEB),
    value("web-listen", None, "127.0.0.1:2280", WEB),
    value("web-auth", None, "", WEB),
    switch("pprof", None, PPROF),
    value("pprof-listen", None, ":6060", PPROF),
    switch("dump", None, ""),
    switch("dump-create", None, ""),
    value("dialect", None, "auto", ""),
    switch("host-key", None, ""),
    switch("debug", Some('d'), "variables of sessions are never logged"),
    switch("help", Some('h'), ""),
    switch("version", Some('v'), ""),
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
