//! What an instance runs.
//!
//! An image of a registry has its own first process, and the server takes another by `oci.*`. A system image has an
//! init: a service's command takes its place, run by a first process of Portway's that is told what to run by a file
//! ([`portway_proto::service`]).

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};
use portway_proto::service::{Again, DIR, PROGRAM, SPEC, Spec};

use super::service::duration;
use super::{Work, plain, raw, refused};
use crate::want::{Addressing, File, Instance, Restart};

/// User and group of the first process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
}

impl Work<'_> {
    /// Whether the server runs the service's image as one of a registry.
    pub(super) fn is_of_registry(&self, service: &Node) -> bool {
        let image = service.text_at("image").unwrap_or_default();
        let is_built = service.at("build").is_some() || self.want.builds.contains_key(image);
        self.setting.oci() && !super::image::is_native(image) && !is_built
    }

    /// Whether the service's first process is ours: a command in a system image.
    pub(super) fn is_guest(&self, service: &Node) -> bool {
        let says = |key: &str| !service.items(key).is_empty();
        !self.is_of_registry(service) && (says("entrypoint") || says("command"))
    }

    pub(super) fn process(
        &mut self,
        service: &Node,
        path: &str,
        restart: Restart,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        if let Some(cwd) = service.at("working_dir") {
            let path = format!("{path}.working_dir");
            if !text(cwd, &path)?.starts_with('/') {
                return Err(refused(cwd, &path, "must be an absolute path"));
            }
        }
        let policy = service.at("deploy").and_then(|deploy| deploy.at("restart_policy"));
        let not_counted = [
            (
                "max_attempts",
                !matches!(restart, Restart::OnFailure(_)),
                "counts with `condition: on-failure`",
            ),
            ("delay", !self.is_guest(service), "counts for a command in a system image"),
        ];
        for (key, is_not, why) in not_counted {
            if let Some(node) = policy.and_then(|policy| policy.at(key)).filter(|_| is_not) {
                self.warn(node, &format!("{path}.deploy.restart_policy.{key}"), &format!("ignored: {why}"));
            }
        }
        if self.is_guest(service) {
            return self.guest(service, path, restart, instance);
        }
        for key in ["tty", "stdin_open", "group_add"] {
            if let Some(node) = service.at(key).filter(|node| node.value != Value::Bool(false)) {
                let what = "ignored: counts for a command in a system image";
                self.warn(node, &format!("{path}.{key}"), what);
            }
        }
        if let Restart::OnFailure(_) = restart {
            let node = service.at("restart").or(service.at("deploy")).unwrap_or(service);
            let what = "ignored: only a command in a system image tells how it has ended; `restart: always` does not ask";
            self.warn(node, &format!("{path}.restart"), what);
        }
        if self.is_of_registry(service) {
            return oci(service, path, self.setting.entrypoints.get(&instance.image), instance);
        }
        for key in ["user", "working_dir", "stop_signal"] {
            if let Some(node) = service.at(key) {
                let what = "counts for a command, and there is none: the image's init runs";
                return Err(refused(node, &format!("{path}.{key}"), what));
            }
        }
        Ok(())
    }

    /// The service's own file, and our first process that reads it.
    fn guest(
        &self,
        service: &Node,
        path: &str,
        restart: Restart,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        if self.setting.program.is_none() {
            let architecture = &self.setting.architecture;
            let what = format!(
                "this build of Portway has no first process for services on a server of architecture `{architecture}`"
            );
            return Err(refused(service, path, what));
        }
        let texts = |key: &str| -> Result<Vec<Vec<u8>>, Fault> {
            let path = format!("{path}.{key}");
            service.items(key).iter().map(|node| text(node, &path).map(String::into_bytes)).collect()
        };
        let one = |key: &str| -> Result<Vec<u8>, Fault> {
            let said = service.at(key).map(|node| text(node, &format!("{path}.{key}"))).transpose()?;
            Ok(said.unwrap_or_default().into_bytes())
        };
        let args: Vec<Vec<u8>> = texts("entrypoint")?.into_iter().chain(texts("command")?).collect();
        let stop = service.at("stop_signal").map(|node| signal(node, path)).transpose()?;
        let mut env = Vec::new();
        for (name, value) in service.members("environment").filter(|(_, value)| value.value != Value::Null) {
            let value = text(value, &format!("{path}.environment.{name}"))?;
            if !is_kept(&value) {
                env.push(format!("{name}={value}").into_bytes());
            }
        }
        let policy = service.at("deploy").and_then(|deploy| deploy.at("restart_policy"));
        let spec = Spec {
            args,
            env,
            cwd: one("working_dir")?,
            user: one("user")?,
            groups: texts("group_add")?,
            stop: stop.map(|(number, _)| number),
            terminal: service.is_true_at("tty"),
            input: service.is_true_at("stdin_open"),
            again: match restart {
                Restart::No => Again::No,
                Restart::Always | Restart::UnlessStopped => Again::Always,
                Restart::OnFailure(most) => Again::OnFailure(most),
            },
            delay: duration(policy.and_then(|policy| policy.at("delay"))),
        };
        let Ok(content) = spec.write() else {
            return Err(refused(service, &format!("{path}.command"), "nothing is said to run"));
        };
        raw(&mut instance.config, &[format!("lxc.init.cmd = {DIR}/{PROGRAM} service {DIR}")]);
        instance.addressing = Addressing::Outside;
        instance.files.push(File { path: format!("{DIR}/{SPEC}"), uid: 0, gid: 0, mode: 0o400, content });
        Ok(())
    }
}

/// Whether the server keeps such a value of a variable. One that it does not keep only our first process can give.
pub(super) fn is_kept(value: &str) -> bool {
    !value.is_empty() && !value.contains(['\n', '\r'])
}

/// Any text that a program can be given.
pub(super) fn text(node: &Node, path: &str) -> Result<String, Fault> {
    match node.as_word() {
        Some(text) if text.contains('\0') => Err(refused(node, path, "has a NUL in it")),
        Some(text) => Ok(text),
        None => Err(refused(node, path, format!("must be a text or a number, not {}", node.value.noun()))),
    }
}

/// Of an image of a registry. The entrypoint of the image counts where it is known.
fn oci(
    service: &Node,
    path: &str,
    of_image: Option<&Vec<String>>,
    instance: &mut Instance,
) -> Result<(), Fault> {
    let words = |key: &str| -> Result<Option<Vec<String>>, Fault> {
        let Some(list) = service.at(key).and_then(Node::as_list) else { return Ok(None) };
        let words = list.iter().map(|word| plain(word, &format!("{path}.{key}")));
        words.collect::<Result<Vec<String>, Fault>>().map(Some)
    };
    let mut set = |key: &str, value: String| instance.config.insert(key.to_owned(), value);
    if let Some(ids) = ids(service, path)? {
        set("oci.uid", ids.uid.to_string());
        set("oci.gid", ids.gid.to_string());
    }
    if let Some(cwd) = service.at("working_dir") {
        set("oci.cwd", plain(cwd, &format!("{path}.working_dir"))?);
    }
    // The server tells both of the image's as one, so that its entrypoint has to be known from elsewhere.
    let (entrypoint, command) = (words("entrypoint")?, words("command")?);
    let entrypoint = entrypoint.or_else(|| command.as_ref().and(of_image.cloned()));
    match (entrypoint, command) {
        (None, None) => {}
        (None, Some(_)) => {
            let what = "what the image runs it with is not known: say `entrypoint` too";
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
    if let Some(node) = service.at("stop_signal") {
        let (_, name) = signal(node, path)?;
        raw(&mut instance.config, &[format!("lxc.signal.halt = SIG{name}")]);
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

/// Number and name, without `SIG`, of the signal that a service is stopped by.
fn signal(node: &Node, path: &str) -> Result<(u8, &'static str), Fault> {
    let path = format!("{path}.stop_signal");
    let text = text(node, &path)?;
    named(&text).ok_or_else(|| refused(node, &path, format!("`{}` is no signal", text.escape_debug())))
}

/// Number and name of a signal that is said by either.
fn named(text: &str) -> Option<(u8, &'static str)> {
    /// By their numbers from 1 on, as on every architecture that Incus runs on.
    const SIGNALS: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let mut all = (1_u8..).zip(SIGNALS);
    all.find(|(number, known)| *known == name || number.to_string() == name)
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_one_name_and_one_number() {
        assert_eq!(named("sigint"), Some((2, "INT")));
        assert_eq!(named("9"), Some((9, "KILL")));
        assert_eq!(named("SIGSYS"), Some((31, "SYS")));
        assert_eq!((named("X; reboot"), named("0"), named("32"), named("09")), (None, None, None, None));
    }

    #[test]
    fn a_word_is_quoted_where_it_has_to_be() {
        assert_eq!([quoted("a-b"), quoted(""), quoted("it's")], ["a-b", "''", "'it'\\''s'"]);
    }
}
