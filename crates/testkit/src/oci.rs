//! Application containers from OCI images, as users have them: a real registry over TLS beside the server, an
//! image pushed to it, and a container that the server makes from it. Only Incus 7 has the tools.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bed::{OWNER, owner, unique};
use crate::{Addr, Bed, Container, Ports, Site, run, testbed, wait_for};

/// What an image says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct OciImage<'a> {
    /// Who its first process is: `UID:GID`.
    pub user: &'a str,
    /// Its first process. The image has busybox and `serve`, as the ordinary one.
    pub entrypoint: &'a [&'a str],
    /// What its first process is given unless somebody says otherwise; without an entrypoint it is the process.
    pub command: &'a [&'a str],
    /// Variables: `NAME=VALUE`.
    pub environment: &'a [&'a str],
    /// Where its first process works.
    pub working_dir: &'a str,
    /// Archive of a native image whose files it has instead of the ordinary one's.
    pub archive: Option<&'a Path>,
}

impl Bed {
    /// A container from an OCI image that is made, pushed and fetched for it; running, and deleted on drop.
    ///
    /// # Errors
    /// When a step fails, or the server cannot do it.
    pub fn launch_oci(&self, name: &str, image: &OciImage<'_>) -> Result<Container<'_>> {
        let registry = self.registry()?;
        registry.push(self, "app:latest", image)?;
        let name = unique(name);
        let config = BTreeMap::from([(OWNER, owner()), ("boot.autostart", "false".to_owned())]);
        let source = json!({
            "type": "image", "mode": "pull", "protocol": "oci",
            "server": registry.server(), "alias": "app:latest",
        });
        let wanted = json!({"name": name, "type": "container", "config": config, "source": source});
        self.incus().change("POST", "/1.0/instances?project=default", Some(&wanted))?;
        let container = self.take("default", &name);
        // The server keeps what it has fetched, for days.
        if let Some(fingerprint) = container.read()?["config"]["volatile.base_image"].as_str() {
            let _ = self.incus().change("DELETE", &format!("/1.0/images/{fingerprint}"), None);
        }
        container.change_state("start")?;
        Ok(container)
    }

    /// A registry in the bed's namespace that the server trusts, with nothing in it; it ends on drop.
    ///
    /// # Errors
    /// When it does not start.
    pub fn registry(&self) -> Result<Registry> {
        Registry::start(self)
    }
}

/// A registry in the bed's namespace; it ends on drop.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    port: u16,
    /// Where the server's own tool looks for the registry's certificate.
    trust: PathBuf,
    folder: TempDir,
    _ports: Ports,
}

impl Registry {
    fn start(bed: &Bed) -> Result<Self> {
        // Below the bed's own folder, which the server sees at the same path.
        let folder = tempfile::tempdir_in(bed.own_dir()).context("cannot make a folder")?;
        let ports = Ports::claim(bed.netns())?;
        let port = ports.one()?;
        let [key, certificate] = ["key.pem", "cert.pem"].map(|name| folder.path().join(name));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        make.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        run(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        let trust = testbed::root_path().join(format!("etc/containers/certs.d/localhost:{port}"));
        fs::create_dir_all(&trust).with_context(|| format!("cannot make {}", trust.display()))?;
        fs::copy(&certificate, trust.join("ca.crt")).context("cannot copy the certificate")?;
        let settings = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}},
            "http": {"addr": format!("127.0.0.1:{port}"), "tls": {"certificate": certificate, "key": key}},
        });
        let file = folder.path().join("registry.yml");
        // JSON is YAML.
        fs::write(&file, settings.to_string()).context("cannot write the registry's settings")?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = bed.netns().spawn(&mut command)?;
        let registry = Self { process, port, trust, folder, _ports: ports };
        let (site, addr) = (Site::netns(bed.netns()), Addr::tcp(&format!("127.0.0.1:{port}")));
        let listens = || site.run(|| addr.connect(Duration::from_secs(5))).ok()?.ok();
        wait_for("the registry", listens)?;
        Ok(registry)
    }

    /// Its address for the server.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.authority())
    }

    /// `localhost:PORT`, as it stands in names of images.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The folder with what it has.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The file with its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.trust.join("ca.crt")
    }

    /// Has the tools of a user with this home trust it.
    ///
    /// # Errors
    /// When the certificate cannot be put there.
    pub fn trusted_by(&self, home: &Path) -> Result<()> {
        let trust = home.join(".config/containers/certs.d").join(self.authority());
        fs::create_dir_all(&trust).with_context(|| format!("cannot make {}", trust.display()))?;
        fs::copy(self.trust.join("ca.crt"), trust.join("ca.crt")).context("cannot copy the certificate")?;
        Ok(())
    }

    /// Its end before its time.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn close(&mut self) -> Result<()> {
        self.process.kill().context("cannot end the registry")?;
        self.process.wait().context("the registry does not end").map(drop)
    }

    /// Makes the server forget what it has fetched from here.
    ///
    /// # Errors
    /// When its images cannot be listed; one in use stays.
    pub fn forget(&self, bed: &Bed) -> Result<()> {
        let images = bed.incus().get("/1.0/images?recursion=1&project=default")?;
        for image in images.as_array().into_iter().flatten() {
            if image["update_source"]["server"].as_str() == Some(&self.server()) {
                let fingerprint = image["fingerprint"].as_str().unwrap_or_default();
                let _ = bed.incus().change("DELETE", &format!("/1.0/images/{fingerprint}"), None);
            }
        }
        Ok(())
    }

    /// Makes an image and pushes it as `NAME:TAG`.
    ///
    /// # Errors
    /// When a step fails.
    pub fn push(&self, bed: &Bed, name: &str, image: &OciImage<'_>) -> Result<()> {
        self.push_with(bed, name, image, &json!({}))
    }

    /// The same with more in what it says of itself: `{"StopSignal": "SIGINT"}`.
    ///
    /// # Errors
    /// When a step fails.
    pub fn push_with(&self, bed: &Bed, name: &str, image: &OciImage<'_>, more: &Value) -> Result<()> {
        let work = tempfile::tempdir_in(self.folder.path()).context("cannot make a folder")?;
        let layout = work.path().join("layout");
        let usual = bed.own_dir().join("bb.tar.gz");
        write_layout(&layout, image.archive.unwrap_or(&usual), work.path(), (image, more))?;
        let server = bed.incus().get("/1.0")?["environment"]["server_pid"].as_i64().context("no pid")?;
        let mut push = Command::new("nsenter");
        push.args(["--target", &server.to_string(), "--mount", "--net", "--", "skopeo"]);
        push.args(["--insecure-policy", "copy", &format!("oci:{}:app", layout.display())]);
        run(push.arg(format!("docker://{}/{name}", self.authority()))).map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.trust);
    }
}

/// An image of one layer as a folder (OCI image layout 1.0).
fn write_layout(
    layout: &Path,
    archive: &Path,
    work: &Path,
    (image, more): (&OciImage<'_>, &Value),
) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context("cannot make the layout")?;
    run(Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(work)
        .arg("rootfs"))?;
    // The server knows an image by its layers, and takes two of the same for one.
    fs::write(work.join("rootfs/.image"), format!("{image:?} {more}\n")).context("cannot mark the image")?;
    let layer = work.join("layer.tar");
    let mut pack = Command::new("tar");
    pack.args(["--create", "--numeric-owner", "--file"]).arg(&layer).arg("--directory");
    run(pack.arg(work.join("rootfs")).arg("."))?;
    let layer = Blob::add(&blobs, &fs::read(&layer).context("cannot read the layer")?)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut config = json!({
        "architecture": architecture, "os": "linux",
        "config": {
            "User": image.user, "Entrypoint": image.entrypoint, "Cmd": image.command,
            "Env": image.environment, "WorkingDir": image.working_dir,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config["config"][key] = value.clone();
    }
    let config = Blob::add(&blobs, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.described("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.described("application/vnd.oci.image.layer.v1.tar")],
    });
    let manifest = Blob::add(&blobs, manifest.to_string().as_bytes())?;
    let mut entry = manifest.described("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "app"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), index.to_string()).context("cannot write the index")?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .context("cannot write the layout")
}

/// A file of a layout, named after its content.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn add(blobs: &Path, content: &[u8]) -> Result<Self> {
        let unnamed = blobs.join("unnamed");
        fs::write(&unnamed, content).context("cannot write a blob")?;
        let sum = run(Command::new("sha256sum").arg(&unnamed))?;
        let sum = sum.split_whitespace().next().context("no sum")?;
        fs::rename(&unnamed, blobs.join(sum)).context("cannot name a blob")?;
        Ok(Self { digest: format!("sha256:{sum}"), size: content.len() })
    }

    fn described(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": self.digest, "size": self.size})
    }
}
