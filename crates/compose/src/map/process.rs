//! What an instance runs.
//!
//! An image of a registry has its own first process, and the server takes another by `oci.*`. A system image has an
//! init: a service's command takes its place by `lxc.init.cmd`, which LXC splits at blanks without knowing quotes, so
//! that it names a script that is written into the instance.

use portway_composefile::Fault;
use portway_composefile::tree::Node;

use super::{Work, plain, raw, refused};
use crate::want::{Addressing, File, Instance};

/// The script, and what it leaves the exit code in.
const SCRIPT_PATH: &str = "/.portway/run";
const EXIT_PATH: &str = "/.portway/exit";

/// Signal that ends a process politely.
const USUAL_SIGNAL: &str = "SIGTERM";

/// User and group of the first process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
}

impl Work<'_> {
    pub(super) fn process(&self, service: &Node, path: &str, instance: &mut Instance) -> Result<(), Fault> {
        let ids = ids(service, path)?;
        let words = |key: &str| -> Result<Option<Vec<String>>, Fault> {
            let Some(node) = service.at(key) else { return Ok(None) };
            let Some(list) = node.as_list() else { return Ok(None) };
            let words = list.iter().map(|word| plain(word, &format!("{path}.{key}")));
            words.collect::<Result<Vec<String>, Fault>>().map(Some)
        };
        let (entrypoint, command) = (words("entrypoint")?, words("command")?);
        let cwd =
            service.at("working_dir").map(|node| plain(node, &format!("{path}.working_dir"))).transpose()?;
        if let Some(cwd) = cwd.as_deref().filter(|cwd| !cwd.starts_with('/') || cwd.contains(' ')) {
            let what = format!("`{cwd}` must be an absolute path without blanks");
            return Err(refused(service, &format!("{path}.working_dir"), what));
        }
        if self.setting.oci() && !is_native(service) && !self.is_built(service) {
            return oci(service, path, (entrypoint, command), (ids, cwd), instance);
        }
        let words: Vec<String> = entrypoint.into_iter().chain(command).flatten().collect();
        if words.is_empty() {
            for key in ["user", "working_dir", "stop_signal"] {
                if let Some(node) = service.at(key) {
                    let what = "counts for a command, and there is none: the image's init runs";
                    return Err(refused(node, &format!("{path}.{key}"), what));
                }
            }
            return Ok(());
        }
        let signal = service.text_at("stop_signal").unwrap_or(USUAL_SIGNAL);
        let Some(signal) = signal_name(signal) else {
            return Err(refused(service, &format!("{path}.stop_signal"), format!("`{signal}` is no signal")));
        };
        let mut lines =
            vec![format!("lxc.init.cmd = {SCRIPT_PATH}"), format!("lxc.signal.halt = SIG{signal}")];
        if let Some(ids) = ids {
            lines.extend([format!("lxc.init.uid = {}", ids.uid), format!("lxc.init.gid = {}", ids.gid)]);
        }
        lines.extend(cwd.map(|cwd| format!("lxc.init.cwd = {cwd}")));
        raw(&mut instance.config, &lines);
        instance.addressing = Addressing::Outside;
        let ids = ids.unwrap_or_default();
        let file = |path: &str, mode: u32, content: String| File {
            path: path.to_owned(),
            uid: ids.uid,
            gid: ids.gid,
            mode,
            content: content.into_bytes(),
        };
        instance.files.push(file(SCRIPT_PATH, 0o755, script(&words, signal)));
        instance.files.push(file(EXIT_PATH, 0o644, String::new()));
        Ok(())
    }
}

impl Work<'_> {
    /// Whether the image is built here, and so a system image.
    fn is_built(&self, service: &Node) -> bool {
        service.at("build").is_some()
            || service.text_at("image").is_some_and(|image| self.want.builds.contains_key(image))
    }
}

/// Whether the image is said to be a system image, whatever else the server runs.
fn is_native(service: &Node) -> bool {
    let image = service.text_at("image").unwrap_or_default();
    super::image::is_native(image)
}

type Words = (Option<Vec<String>>, Option<Vec<String>>);

fn oci(
    service: &Node,
    path: &str,
    (entrypoint, command): Words,
    (ids, cwd): (Option<Ids>, Option<String>),
    instance: &mut Instance,
) -> Result<(), Fault> {
    let mut set = |key: &str, value: String| instance.config.insert(key.to_owned(), value);
    if let Some(ids) = ids {
        set("oci.uid", ids.uid.to_string());
        set("oci.gid", ids.gid.to_string());
    }
    if let Some(cwd) = cwd {
        set("oci.cwd", cwd);
    }
    match (entrypoint, command) {
        (None, None) => {}
        (None, Some(_)) => {
            let what = "the server does not tell what the image runs it with: say `entrypoint` too";
            return Err(refused(service, &format!("{path}.command"), what));
        }
        (Some(entrypoint), command) => {
            let words: Vec<String> = entrypoint.into_iter().chain(command.into_iter().flatten()).collect();
            if words.is_empty() {
                return Err(refused(service, &format!("{path}.entrypoint"), "nothing is left to run"));
            }
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            set("oci.entrypoint", words.join(" "));
        }
    }
    if let Some(signal) = service.text_at("stop_signal") {
        let Some(signal) = signal_name(signal) else {
            return Err(refused(service, &format!("{path}.stop_signal"), format!("`{signal}` is no signal")));
        };
        raw(&mut instance.config, &[format!("lxc.signal.halt = SIG{signal}")]);
    }
    Ok(())
}

/// `UID[:GID]`: names are known to nobody outside.
fn ids(service: &Node, path: &str) -> Result<Option<Ids>, Fault> {
    let Some(node) = service.at("user") else { return Ok(None) };
    let text = node.as_text().unwrap_or_default();
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    match (user.parse(), group.parse()) {
        (Ok(uid), Ok(gid)) => Ok(Some(Ids { uid, gid })),
        _ => {
            let what = format!("`{text}`: names of users are known inside only, say UID or UID:GID");
            Err(refused(node, &format!("{path}.user"), what))
        }
    }
}

/// The name of a signal without `SIG`; a number is one too.
fn signal_name(text: &str) -> Option<&'static str> {
    /// Numbers as on every architecture that Incus runs on.
    const SIGNALS: [(&str, &str); 12] = [
        ("1", "HUP"),
        ("2", "INT"),
        ("3", "QUIT"),
        ("6", "ABRT"),
        ("9", "KILL"),
        ("10", "USR1"),
        ("12", "USR2"),
        ("14", "ALRM"),
        ("15", "TERM"),
        ("28", "WINCH"),
        ("30", "PWR"),
        ("18", "CONT"),
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS.iter().find(|(number, known)| *known == name || *number == name).map(|(_, known)| *known)
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Runs the command, passes the signal on that ends it, and leaves its exit code.
fn script(words: &[String], signal: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!(
        "#!/bin/sh\n\
         : >{EXIT_PATH}\n\
         {} &\n\
         child=$!\n\
         trap 'kill -{signal} $child' {signal}\n\
         while :; do\n\
         \x20 wait $child\n\
         \x20 code=$?\n\
         \x20 kill -0 $child 2>/dev/null || break\n\
         done\n\
         echo $code >{EXIT_PATH}\n\
         exit $code\n",
        words.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Fails when a word reaches the program as another, or the exit code is not the program's.
    #[test]
    fn a_shell_runs_what_the_file_says() {
        let dir = std::env::temp_dir().join(format!("portway-script-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let words = ["sh", "-c", "printf '%s|' \"$@\"; exit 7", "x", "", "a b", "it's", "$HOME", "*", "\\n"];
        let words: Vec<String> = words.map(str::to_owned).into();
        let exit = dir.join("exit");
        let script = script(&words, "TERM").replace(EXIT_PATH, &exit.display().to_string());
        let ran = Command::new("sh").arg("-c").arg(script).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "|a b|it's|$HOME|*|\\n|");
        assert_eq!(ran.status.code(), Some(7));
        assert_eq!(std::fs::read_to_string(&exit).expect("written"), "7\n");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn signals_have_one_name() {
        assert_eq!(signal_name("sigint"), Some("INT"));
        assert_eq!(signal_name("9"), Some("KILL"));
        assert_eq!(signal_name("X; reboot"), None);
    }
}
