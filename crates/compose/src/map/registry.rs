//! What an instance of an image of a registry runs.
//!
//! The server tells what such an image runs when it has made an instance of it, by `oci.*` keys of that. Our first
//! process takes the place of the image's and is told the same program, user and folder, those that the file says apart.
//! Where it cannot be, the server runs the program, under an init of its own, and tells nobody how it ends.

use portway_composefile::Fault;
use portway_composefile::tree::Node;
use portway_incus::is_true;

use super::process::{signal, text};
use super::{Work, plain, raw, refused};
use crate::want::Instance;
use crate::words;

/// What makes room for a first process of ours (lxc.container.conf(5)): the server has LXC run the image's program under
/// an init, as the image's user and in its folder, which ours sees to by itself.
pub(super) const IN_ITS_PLACE: [&str; 4] =
    ["lxc.execute.cmd =", "lxc.init.uid = 0", "lxc.init.gid = 0", "lxc.init.cwd = /"];

impl Work<'_> {
    /// Why the first process of a service on an image of a registry cannot be ours.
    pub(super) fn unwrapped(&self, service: &Node) -> Option<String> {
        if self.setting.program.is_none() {
            let architecture = &self.setting.architecture;
            return Some(format!("this build has none for a server of architecture `{architecture}`"));
        }
        if self.setting.is_restricted || super::is_restricted(&self.want.config) {
            return Some("the server's project is restricted and takes no `raw.lxc`".to_owned());
        }
        let root = service.at("x-incus-compose").and_then(|own| own.at("devices")?.at("root"));
        let is_read_only =
            root.and_then(|root| root.at("readonly")?.as_word()).is_some_and(|word| is_true(&word));
        is_read_only.then(|| "its root disk is only read".to_owned())
    }

    /// Program and arguments as far as the file says them; `None` where they are the image's. The server tells both parts
    /// of the image's as one, so that its entrypoint has to be known from elsewhere.
    pub(super) fn words(
        &self,
        service: &Node,
        path: &str,
        image: &str,
    ) -> Result<Option<Vec<String>>, Fault> {
        let said = |key: &str| -> Result<Option<Vec<String>>, Fault> {
            let Some(list) = service.at(key).and_then(Node::as_list) else { return Ok(None) };
            let words = list.iter().map(|word| text(word, &format!("{path}.{key}")));
            words.collect::<Result<Vec<String>, Fault>>().map(Some)
        };
        let (entrypoint, command) = (said("entrypoint")?, said("command")?);
        let of_image = || self.setting.told.get(image).map(|told| told.entrypoint.clone());
        let entrypoint = match (entrypoint, &command) {
            (None, None) => return Ok(None),
            (None, Some(_)) => of_image().ok_or_else(|| {
                let what = "what the image runs it with is not known: say `entrypoint` too";
                refused(service, &format!("{path}.command"), what)
            })?,
            (Some(entrypoint), _) => entrypoint,
        };
        let words: Vec<String> = entrypoint.into_iter().chain(command.into_iter().flatten()).collect();
        if words.is_empty() {
            return Err(refused(service, &format!("{path}.entrypoint"), "nothing is left to run"));
        }
        Ok(Some(words))
    }

    /// Has the server run it: by keys of its own, which take no names of users.
    pub(super) fn without_us(
        &mut self,
        service: &Node,
        path: &str,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        if let Some(why) = self.unwrapped(service) {
            let what = format!("runs without Portway's first process, and nothing tells how it ends: {why}");
            self.warn(service, path, &what);
        }
        for key in ["entrypoint", "command"] {
            service.items(key).iter().try_for_each(|word| plain(word, &format!("{path}.{key}")).map(drop))?;
        }
        let words = self.words(service, path, &instance.image)?;
        let mut set = |key: &str, value: String| instance.config.insert(key.to_owned(), value);
        if let Some(node) = service.at("user") {
            let (uid, gid) = ids(node, path)?;
            set("oci.uid", uid.to_string());
            set("oci.gid", gid.to_string());
        }
        if let Some(cwd) = service.at("working_dir") {
            set("oci.cwd", plain(cwd, &format!("{path}.working_dir"))?);
        }
        if let Some(words) = words {
            let words: Vec<String> = words.iter().map(|word| words::quoted(word)).collect();
            set("oci.entrypoint", words.join(" "));
        }
        if let Some(node) = service.at("stop_signal") {
            let (_, name) = signal(node, path)?;
            raw(&mut instance.config, &[format!("lxc.signal.halt = SIG{name}")]);
        }
        Ok(())
    }
}

/// `UID[:GID]`: names are known to nobody outside.
fn ids(node: &Node, path: &str) -> Result<(u32, u32), Fault> {
    let text = node.as_text().unwrap_or_default();
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    match (user.parse(), group.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => {
            let what = format!("`{text}`: names of users are known inside only, say UID or UID:GID");
            Err(refused(node, &format!("{path}.user"), what))
        }
    }
}
