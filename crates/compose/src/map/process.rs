//! What an instance runs.
//!
//! A first process of Portway's, told by a file what to run ([`portway_proto::service`]): in the place of the init of a
//! system image, where the service has a command, and of that of an image of a registry ([`super::registry`]).

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};
use portway_proto::service::{Again, DIR, PROGRAM, SPEC, Spec};

use super::service::duration;
use super::{Work, raw, refused};
use crate::want::{Addressing, File, Instance, Restart};

/// What goes for a first process of ours alone.
const NOT_OURS: &str = "counts where the first process is Portway's";

impl Work<'_> {
    /// Whether the server runs the service's image as one of a registry.
    pub(super) fn is_of_registry(&self, service: &Node) -> bool {
        let image = service.text_at("image").unwrap_or_default();
        let is_built = service.at("build").is_some() || self.want.builds.contains_key(image);
        self.setting.oci() && !super::image::is_native(image) && !is_built
    }

    /// Whether the service's first process is ours: it has a command in a system image, or an image of a registry.
    pub(super) fn is_guest(&self, service: &Node) -> bool {
        if self.is_of_registry(service) {
            return self.unwrapped(service).is_none();
        }
        ["entrypoint", "command"].iter().any(|key| !service.items(key).is_empty())
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
            ("delay", !self.is_guest(service), NOT_OURS),
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
                self.warn(node, &format!("{path}.{key}"), &format!("ignored: {NOT_OURS}"));
            }
        }
        if let Restart::OnFailure(_) = restart {
            let node = service.at("restart").or(service.at("deploy")).unwrap_or(service);
            let what = "ignored: nothing tells how it has ended; `restart: always` does not ask";
            self.warn(node, &format!("{path}.restart"), what);
        }
        if self.is_of_registry(service) {
            return self.without_us(service, path, instance);
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
        let of_image = self.is_of_registry(service);
        let args = if of_image {
            let words = self.words(service, path, &instance.image)?.unwrap_or_default();
            words.into_iter().map(String::into_bytes).collect()
        } else {
            texts("entrypoint")?.into_iter().chain(texts("command")?).collect()
        };
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
            of_image,
        };
        let Ok(content) = spec.write() else {
            return Err(refused(service, &format!("{path}.command"), "nothing is said to run"));
        };
        instance.addressing = Addressing::Outside;
        if of_image {
            instance.addressing = Addressing::Over;
            raw(&mut instance.config, &super::registry::IN_ITS_PLACE.map(str::to_owned));
        }
        raw(&mut instance.config, &[format!("lxc.init.cmd = {DIR}/{PROGRAM} service {DIR}")]);
        instance.files.push(File { path: format!("{DIR}/{SPEC}"), uid: 0, gid: 0, mode: 0o400, content });
        Ok(())
    }
}

/// Whether the server keeps such a value of a variable. One that it does not keep only our first process can give.
pub(super) fn is_kept(value: &str) -> bool {
    !value.is_empty() && !value.contains(['\n', '\r'])
}

/// Any text that a program can be given.
pub(crate) fn text(node: &Node, path: &str) -> Result<String, Fault> {
    match node.as_word() {
        Some(text) if text.contains('\0') => Err(refused(node, path, "has a NUL in it")),
        Some(text) => Ok(text),
        None => Err(refused(node, path, format!("must be a text or a number, not {}", node.value.noun()))),
    }
}

/// Number and name, without `SIG`, of the signal that a service is stopped by.
pub(super) fn signal(node: &Node, path: &str) -> Result<(u8, &'static str), Fault> {
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
}
