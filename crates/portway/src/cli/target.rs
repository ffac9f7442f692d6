//! Which instance and device an argument means.

use std::env;

use portway_incus::Client;
use portway_model::{DeviceKey, DeviceName, InstanceKey, InstanceRef, ProjectName, Provider, RefError};

use crate::cli::InstanceArg;
use crate::failure::{Outcome, Stop, printable};

const FORM: &str =
    "an instance is [PROVIDER:][PROJECT/]NAME, as in c1, dev/c1, incus:dev/c1, lxd:c1, netns:blue, pid:4711";

/// The provider meant when none is typed: Incus when its socket is there, else LXD when its is, else Incus.
pub(crate) fn default_provider() -> Provider {
    let variable = |name: &str| env::var(name).ok();
    let lxd_only = Client::discover(variable).is_none() && Client::discover_lxd(variable).is_some();
    if lxd_only { Provider::Lxd } else { Provider::Incus }
}

/// The instance that `text` means.
pub(crate) fn instance(text: &str, project: Option<&str>) -> Outcome<InstanceKey> {
    let wrong = |error: RefError| Stop::usage(format!("instance `{}`: {error}", printable(text))).hint(FORM);
    let project = project.map(self::project).transpose()?;
    let typed: InstanceRef = text.parse().map_err(wrong)?;
    typed.resolve(default_provider(), project).map_err(wrong)
}

/// The project that `--project` names.
pub(crate) fn project(text: &str) -> Outcome<ProjectName> {
    text.parse().map_err(|error| Stop::usage(format!("--project `{}`: {error}", printable(text))))
}

/// The device that `text` names.
pub(crate) fn device_name(text: &str) -> Outcome<DeviceName> {
    text.parse().map_err(|error| Stop::usage(format!("device `{}`: {error}", printable(text))))
}

/// The device `device` of the instance that the arguments mean.
pub(crate) fn device(argument: &InstanceArg, device: &str) -> Outcome<DeviceKey> {
    Ok(DeviceKey { instance: argument.key()?, device: device_name(device)? })
}

impl InstanceArg {
    /// The instance.
    pub(crate) fn key(&self) -> Outcome<InstanceKey> {
        instance(&self.instance, self.project.project.as_deref())
    }
}

/// The shortest text that still means `key` when typed without `--project`.
pub(crate) fn short(key: &InstanceKey, default: Provider) -> String {
    if key.provider() != default {
        return key.to_string();
    }
    match key.project() {
        Some(project) if *project != ProjectName::default() => format!("{project}/{}", key.name()),
        Some(_) => key.name().to_string(),
        None => key.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_the_same_instance() {
        for text in
            ["incus:default/c1", "incus:dev/c1", "lxd:default/c1", "netns:blue", "netns:/proc/7/ns/net"]
        {
            let key: InstanceKey = text.parse().unwrap();
            for default in [Provider::Incus, Provider::Lxd] {
                let typed: InstanceRef = short(&key, default).parse().unwrap();
                assert_eq!(typed.resolve(default, None).unwrap(), key);
            }
        }
        let key = "incus:dev/c1".parse().unwrap();
        assert_eq!(short(&key, Provider::Incus), "dev/c1");
    }
}
