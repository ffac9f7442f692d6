//! What help and manual pages say beside the arguments.

use std::fmt::Write as _;

/// A word and what it means.
pub(crate) type Note = (&'static str, &'static str);

/// How instances are written.
pub(crate) const INSTANCES: [Note; 6] = [
    ("c1, dev/c1", "an Incus container, in a project; of LXD, where only that is installed"),
    ("incus:dev/c1", "the same, saying whose"),
    ("lxd:dev/c1", "an LXD container"),
    ("netns:blue", "the network namespace /run/netns/blue"),
    ("netns:/proc/7/ns/net", "the one at this path"),
    ("pid:4711", "the process 4711: its network namespace and its root folder"),
];

/// Exit codes.
pub(crate) const EXIT_CODES: [Note; 5] = [
    ("0", "done"),
    ("1", "refused or failed"),
    ("2", "malformed arguments or settings"),
    ("3", "daemon or server not reachable"),
    ("4", "no such instance or device"),
];

/// Variables.
pub(crate) const ENVIRONMENT: [Note; 4] = [
    ("PORTWAY_DIR", "folder for everything the daemon keeps, instead of /etc, /run and /var"),
    ("INCUS_SOCKET, INCUS_DIR", "where Incus is"),
    ("LXD_SOCKET, LXD_DIR", "where LXD is"),
    ("NO_COLOR", "no colours"),
];

/// Files.
pub(crate) const FILES: [Note; 3] = [
    ("/etc/portway/portway.toml", "settings of the daemon; optional"),
    ("/run/portway/portway.sock", "control socket, for root and the group portway"),
    ("/var/lib/portway/state.json", "the devices, as they are wanted"),
];

/// Examples of `device add`.
pub(crate) const ADD_EXAMPLES: [&str; 3] = [
    "portway device add c1 web listen=tcp:0.0.0.0:8080 connect=tcp:127.0.0.1:80",
    "portway device add c1 dns proxy listen=udp:[::]:53 connect=udp:127.0.0.1:53",
    "portway device add c1 agent bind=instance listen=unix:/run/agent.sock connect=unix:/run/a.sock",
];

/// Below the help of `top`.
pub(crate) const TOP: &str = "\
Keys of the page:
  Up Down k j PgUp PgDn Home End   choose a device
  Enter, Esc                       one device and its connections, and back
  s > S <, r                       sort by the next column or the one before, reverse
  /                                only what has this text in its names or addresses
  p, + -                           pause, look less or more often
  ?, Ctrl-Z, q                     help, to the shell, quit";

/// Below the help of `apply`.
pub(crate) const APPLY: &str = "\
A file:
  devices:
    - {instance: c1, name: web, listen: \"tcp::8080\", connect: \"tcp::80\"}
    - instance: dev/c2
      name: db
      listen: unix:/run/c2-db.sock
      connect: unix:/run/postgresql/.s.PGSQL.5432
      mode: 0660";

/// Below the long help of the program.
pub(crate) fn after_help() -> String {
    let sections: [(&str, &[Note]); 3] = [
        ("Instances are written [PROVIDER:][PROJECT/]NAME", &INSTANCES),
        ("Exit codes", &EXIT_CODES),
        ("Environment", &ENVIRONMENT),
    ];
    sections.map(|(title, notes)| section(title, notes)).join("\n\n")
}

fn section(title: &str, notes: &[Note]) -> String {
    let width = notes.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    let mut text = format!("{title}:");
    for (word, meaning) in notes {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "\n  {word:<width$}  {meaning}");
    }
    text
}
