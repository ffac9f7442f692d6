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
#[derive(Debug, Clone, Copy)]
pub struct OciImage<'a> {
    /// Who its first process is: `UID:GID`.
    pub user: &'a str,
    /// Its first process. The image has busybox and `serve`, as the ordinary one.
    pub entrypoint: &'a [&'a str],
}

impl Bed {
    /// A container from an OCI image that is made, pushed and fetched for it; running, and deleted on drop.
    ///
    /// # Errors
    /// When a step fails, or the server cannot do it.
    pub fn launch_oci(&self, name: &str, image: &OciImage<'_>) -> Result<Container<'_>> {
        let registry = self.registry()?;
        registry.push(self, image)?;
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
        format!("https://localhost:{}", self.port)
    }

    /// `localhost:PORT`, as it stands in names of images.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The file with its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.trust.join("ca.crt")
    }

    /// Makes an image of the ordinary one's files and pushes it as `app:latest`.
    ///
    /// # Errors
    /// When a step fails.
    pub fn push(&self, bed: &Bed, image: &OciImage<'_>) -> Result<()> {
        let layout = self.folder.path().join("layout");
        write_layout(&layout, bed.own_dir(), self.folder.path(), image)?;
        let server = bed.incus().get("/1.0")?["environment"]["server_pid"].as_i64().context("no pid")?;
        let mut push = Command::new("nsenter");
        push.args(["--target", &server.to_string(), "--mount", "--net", "--", "skopeo"]);
        push.args(["--insecure-policy", "copy", &format!("oci:{}:app", layout.display())]);
        run(push.arg(format!("docker://localhost:{}/app:latest", self.port))).map(drop)
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
fn write_layout(layout: &Path, own_dir: &Path, work: &Path, image: &OciImage<'_>) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context("cannot make the layout")?;
    let archive = own_dir.join("bb.tar.gz");
    run(Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(work)
        .arg("rootfs"))?;
    let layer = work.join("layer.tar");
    let mut pack = Command::new("tar");
    pack.args(["--create", "--numeric-owner", "--file"]).arg(&layer).arg("--directory");
    run(pack.arg(work.join("rootfs")).arg("."))?;
    let layer = Blob::add(&blobs, &fs::read(&layer).context("cannot read the layer")?)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"User": image.user, "Entrypoint": image.entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
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
