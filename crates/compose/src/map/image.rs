//! Where images are from.

use portway_composefile::Fault;
use portway_composefile::tree::Node;

use super::build::image_name;
use super::{Work, refused};
use crate::want::{Image, ImageSource, Pull};

/// Servers of images by the names that the client of Incus gives them.
const REMOTES: [(&str, &str); 1] = [("images", "https://images.linuxcontainers.org")];

/// The name before the colon of the server's own images.
const LOCAL: &str = "local";

/// The registry of names without one.
const REGISTRY: &str = "docker.io";

/// Whether `text` names a system image, also where the server runs images of registries.
pub(super) fn is_native(text: &str) -> bool {
    let remote = text.split_once(':').map(|(remote, _)| remote);
    remote.is_some_and(|remote| remote == LOCAL || REMOTES.iter().any(|(name, _)| *name == remote))
}

/// The name of a registry's image in full.
pub(super) fn full_name(text: &str) -> String {
    let (registry, name) = reference(text);
    format!("{registry}/{name}")
}

impl Work<'_> {
    /// Notes the image of a service, and gives what the file calls it.
    pub(super) fn image(&mut self, name: &str, service: &Node, path: &str) -> Result<String, Fault> {
        let text = image_name(self.project, name, service);
        let node = service.at("image").unwrap_or(service);
        let path = format!("{path}.image");
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(refused(node, &path, format!("`{}` is no image", text.escape_debug())));
        }
        let built = self.want.builds.get(&text).map(|build| ImageSource::Built(build.alias.clone()));
        let source = match built {
            Some(built) => built,
            None => self.source(&text, node, &path)?,
        };
        let pull = match service.text_at("pull_policy") {
            Some("always") => Pull::Always,
            Some("never") => Pull::Never,
            Some("build") if matches!(source, ImageSource::Built(_)) => Pull::Build,
            Some("build") => return Err(refused(node, &path, "nothing says how it is built")),
            _ => Pull::Missing,
        };
        let image = Image { source, pull };
        let known = self.want.images.entry(text.clone()).or_insert_with(|| image.clone());
        // Whoever wants it anew gets it anew, and so does everybody; whoever takes what there is takes what is fetched.
        known.pull = match (known.pull, image.pull) {
            (Pull::Build, _) | (_, Pull::Build) => Pull::Build,
            (Pull::Always, _) | (_, Pull::Always) => Pull::Always,
            (Pull::Never, Pull::Never) => Pull::Never,
            _ => Pull::Missing,
        };
        Ok(text)
    }

    fn source(&self, text: &str, node: &Node, path: &str) -> Result<ImageSource, Fault> {
        if let Some((remote, alias)) = text.split_once(':') {
            if remote == LOCAL {
                return Ok(ImageSource::Local(alias.to_owned()));
            }
            if let Some((_, url)) = REMOTES.iter().find(|(name, _)| *name == remote) {
                return Ok(ImageSource::Simplestreams { url: (*url).to_owned(), alias: alias.to_owned() });
            }
        }
        let (registry, name) = reference(text);
        if self.setting.oci() {
            return Ok(ImageSource::Oci { url: format!("https://{registry}"), name });
        }
        if registry != REGISTRY || text.starts_with("docker.io/") || text.contains('@') {
            let what = format!("`{text}` is of a registry, and this server runs system images only");
            let hint = "name one as images:alpine/edge, or an alias of the server";
            return Err(refused(node, path, what).hint(Some(hint.to_owned())));
        }
        Ok(ImageSource::Local(text.to_owned()))
    }
}

/// Registry and name of `[REGISTRY/]PATH[:TAG][@DIGEST]`.
fn reference(text: &str) -> (String, String) {
    let (registry, path) = match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => (REGISTRY, text.to_owned()),
        None => (REGISTRY, format!("library/{text}")),
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    let tagged = if last.contains([':', '@']) { path } else { format!("{path}:latest") };
    (registry.to_owned(), tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_registry_and_tag() {
        for (text, registry, name) in [
            ("nginx", "docker.io", "library/nginx:latest"),
            ("nginx:1.27", "docker.io", "library/nginx:1.27"),
            ("grafana/loki", "docker.io", "grafana/loki:latest"),
            ("ghcr.io/a/b/c:2", "ghcr.io", "a/b/c:2"),
            ("localhost:5000/x", "localhost:5000", "x:latest"),
            ("nginx@sha256:00", "docker.io", "library/nginx@sha256:00"),
        ] {
            assert_eq!(reference(text), (registry.to_owned(), name.to_owned()), "{text}");
        }
        assert!(is_native("images:alpine/edge") && is_native("local:x") && !is_native("nginx:1"));
    }
}
