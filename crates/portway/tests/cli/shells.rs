//! Completion in zsh and fish as they are, by the key that their users press.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::{FakeDaemon, Place, Request, device};

/// Names that a shell would take apart, each of which would leave a file behind.
const HOSTILE: [&str; 4] =
    ["incus:x;touch$IFS.pwned/c3", "netns:$(touch${IFS}pwned)", "netns:a;touch pwned", "netns:`touch pwned`"];

fn names(request: &Request) -> (u16, String) {
    let answer = if request.line == "GET /1.0/instances" {
        let known = |name: &&str| json!({"instance": name, "status": null, "devices": 1});
        let good = ["incus:default/c1", "incus:dev/c2", "netns:blue"];
        good.iter().chain(&HOSTILE).map(known).collect()
    } else {
        json!([device("web", "active", None), device("www", "active", None)])
    };
    (200, answer.to_string())
}

/// A place with the program by its name in the shell's path, and an empty folder to be in.
struct Desk {
    place: Place,
    _daemon: FakeDaemon,
}

impl Desk {
    fn new() -> Desk {
        let place = Place::new();
        let daemon = FakeDaemon::start(&place, names);
        for dir in ["bin", "home"] {
            fs::create_dir(place.path().join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_portway"), place.path().join("bin/portway")).unwrap();
        Desk { place, _daemon: daemon }
    }

    fn home(&self) -> PathBuf {
        self.place.path().join("home")
    }

    /// What a script of a shell prints for a line.
    fn run(&self, shell: &str, args: &[&str]) -> Vec<String> {
        let mut command = Command::new(shell);
        let like = self.place.command(&[]);
        command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = format!("{}:/usr/bin:/bin", self.place.path().join("bin").display());
        command.env("PATH", path).env("HOME", self.home()).env("LC_ALL", "C.UTF-8").current_dir(self.home());
        let output = command.args(args).output().unwrap();
        assert!(output.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!self.home().join("pwned").exists(), "{args:?}: a name was a command");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<String> =
            text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    }

    /// Checks every place of a line.
    fn check(&self, offered: impl Fn(&str) -> Vec<String>) {
        for (line, expected) in [
            ("portway dev", &["device"] as &[&str]),
            ("portway device re", &["remove", "rename"]),
            ("portway device remove ", &["c1", "dev/c2", "netns:blue"]),
            ("portway device remove netns:", &["netns:blue"]),
            ("portway device remove c1 w", &["web", "www"]),
            ("portway device remove c1 web ", &["web", "www"]),
            ("portway device set c1 web bind=", &["bind=host", "bind=instance"]),
            ("portway device add c1 web lis", &["listen="]),
            ("portway device set c1 web listen=u", &["listen=udp:", "listen=unix:"]),
            ("portway device list --format j", &["json"]),
            ("portway compose conf", &["config"]),
            ("portway compose up --force-r", &["--force-recreate"]),
        ] {
            assert_eq!(offered(line), expected, "{line:?}");
        }
    }
}

/// Whether a shell is installed.
fn has(shell: &str) -> bool {
    let found = Command::new(shell).args(["-c", "exit"]).status().is_ok_and(|status| status.success());
    if !found {
        portway_testkit::require(&format!("no {shell}"));
    }
    found
}

/// Fails when: the word at the cursor is left out while it is empty.
#[test]
fn fish_completes_instances_devices_and_keys() {
    if !has("fish") {
        return;
    }
    let desk = Desk::new();
    let script = "portway completion fish | source; complete --do-complete $argv[1]";
    desk.check(|line| {
        let lines = desk.run("fish", &["--no-config", "-c", script, line]);
        lines.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    });
}

/// In a terminal of its own: the line is typed, the tabulator pressed, and what the completion was given is
/// written down; then the line as it stands.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PROMPT=; unsetopt beep; autoload -Uz compinit; compinit -u -D; source <(portway completion zsh)'
zpty -w shell 'compadd() { local -a hits; builtin compadd -A hits "$@"; print -rl -- $hits >> hits; builtin compadd "$@" }'
zpty -w shell 'finish() { print -r -- "$BUFFER" > part; mv part line; exit }; zle -N finish'
zpty -w shell 'bindkey "^X" finish; bindkey "^I" complete-word'
zpty -w shell ': > ready'
while [[ ! -e ready ]] { zpty -r -t shell junk || sleep 0.02 }
zpty -w -n shell "$1"$'\t\x18'
while [[ ! -e line ]] { zpty -r -t shell junk || sleep 0.02 }
[[ -e hits ]] && cat hits
exit 0
"#;

/// Fails when: a candidate is given as it is, or with the blank that follows a whole word after `=`, `:` and `/`.
#[test]
fn zsh_completes_instances_devices_and_keys() {
    if !has("zsh") {
        return;
    }
    let desk = Desk::new();
    let pressed = |line: &str| {
        for file in ["hits", "line", "ready"] {
            // There is none before the first.
            let _ = fs::remove_file(desk.home().join(file));
        }
        let hits = desk.run("zsh", &["-f", "-c", ZSH, "zsh", line]);
        (hits, fs::read_to_string(desk.home().join("line")).unwrap())
    };
    desk.check(|line| pressed(line).0);
    for (line, becomes) in [
        ("portway dev", "portway device \n"),
        ("portway device remove netns:", "portway device remove netns:blue \n"),
        ("portway device add c1 web lis", "portway device add c1 web listen=\n"),
        ("portway device remove incus:", "portway device remove incus:\n"),
    ] {
        assert_eq!(pressed(line).1, becomes, "{line:?}");
    }
}
