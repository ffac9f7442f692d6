//! One of the projects, with its folder copied.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use portway_testkit::{OciImage, Server, wait_for};

use crate::registry::Fetched;
use crate::scene::{Said, Scene};

/// A project of the examples.
pub(crate) struct Example {
    pub(crate) scene: Scene,
    pub(crate) port: u16,
    /// Where its images are from, on Incus 7.
    _registry: Option<Fetched>,
}

impl Example {
    /// One with images of the server's own, on Incus 6; `None` where no server can be had.
    pub(crate) fn open(name: &str) -> Option<Example> {
        let scene = Scene::on(Server::Incus6, name)?;
        let images = scene.bed.services().unwrap().to_owned();
        Some(Example::with(scene, name, &images, None))
    }

    /// The same with images of a registry, on Incus 7.
    pub(crate) fn open_with_registry(name: &str, images: &[(&str, &[&str])]) -> Option<Example> {
        let scene = Scene::on(Server::Incus7, name)?;
        let registry = Fetched::of(&scene);
        for (image, command) in images {
            let archive = scene.bed.service_archive(image).unwrap();
            let environment = &["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
            let made = OciImage {
                user: "0:0",
                command,
                environment,
                archive: Some(&archive),
                ..OciImage::default()
            };
            registry.push(&format!("{image}:latest"), &made);
        }
        let images = format!("{}/", registry.name());
        Some(Example::with(scene, name, &images, Some(registry)))
    }

    fn with(scene: Scene, name: &str, images: &str, registry: Option<Fetched>) -> Example {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        for entry in fs::read_dir(&from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), scene.dir().join(entry.file_name())).unwrap();
        }
        let port = scene.free_port();
        fs::write(scene.dir().join(".env"), format!("IMAGES={images}\nPORT={port}\n")).unwrap();
        Example { scene, port, _registry: registry }
    }

    /// With a daemon of Portway.
    pub(crate) fn with_daemon(self, dir: &Path) -> Example {
        Example { scene: self.scene.with_daemon(dir), ..self }
    }

    /// It is up: once more changes nothing, and a change of `service` is one of its instances only.
    pub(crate) fn holds(&self, service: &str) {
        let before = self.scene.all();
        let names: Vec<String> = self
            .scene
            .instances()
            .iter()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
            .collect();
        let mark = names.first().unwrap();
        let events = self.scene.events(mark, || {
            let again = self.scene.ok(&["up", "-d"]);
            assert_eq!((again.out.as_str(), again.err.as_str()), ("", ""));
            assert_eq!(self.scene.all(), before);
        });
        assert_eq!(events, [format!("instance-updated {mark}")], "no more than the mark");
        let pids = |own: bool| -> Vec<(&String, i64)> {
            let of = names.iter().filter(|name| name.starts_with(&format!("{service}-")) == own);
            of.map(|name| (name, self.scene.pid(name))).collect()
        };
        let (changed, others) = (pids(true), pids(false));
        let text = format!("services: {{{service}: {{environment: {{CHANGED: '1'}}}}}}\n");
        fs::write(self.scene.dir().join("compose.incus.yaml"), text).unwrap();
        self.scene.ok(&["up", "-d"]);
        assert_eq!(pids(false), others);
        assert!(pids(true).iter().zip(&changed).all(|(now, before)| now.1 != before.1), "{changed:?}");
        assert_eq!(pids(true).len(), changed.len());
    }

    /// Takes it down: nothing is left.
    pub(crate) fn ends(&self) {
        self.scene.ok(&["down", "-v"]);
        assert!(self.scene.is_gone() && !self.scene.is_open(self.port));
    }

    /// What is answered on the server's host to a request with these header lines: the status and the body.
    pub(crate) fn ask(&self, address: IpAddr, headers: &str) -> (u16, String) {
        let to = SocketAddr::from((address, self.port));
        let ask = || {
            let limit = Duration::from_secs(5);
            let mut stream = TcpStream::connect_timeout(&to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            write!(stream, "GET / HTTP/1.0\r\n{headers}\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        wait_for("an answer of the web server", || {
            let answer = self.scene.bed.netns().enter(ask).unwrap().ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1)?.parse().ok()?;
            // In front of those that have not begun to listen.
            (status != 502).then(|| (status, body.to_owned()))
        })
        .unwrap()
    }

    /// What the database says to a line of SQL.
    pub(crate) fn sql(&self, script: &str) -> String {
        let said = self.scene.exec("db-1", script);
        assert!(said.status.success(), "{said:?}");
        Said::of(said).out
    }
}
