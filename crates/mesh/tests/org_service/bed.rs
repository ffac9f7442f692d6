//! A registrar for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portway_mesh::org::membership::{Membership, MembershipError, Wish};
use portway_mesh::org::registrar::{Registrar, admin, run, serve};
use portway_mesh::org::store::{FileStore, StoreError};
use portway_mesh::org::{Owner, RegistrarUrl, Token};
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::task::JoinHandle;

/// How long something may take that takes milliseconds; other tests load the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A registrar that runs, and the folders of its devices.
pub(crate) struct Bed {
    dir: TempDir,
    pub(crate) port: u16,
    running: Option<JoinHandle<()>>,
}

impl Bed {
    /// With organization acme.
    pub(crate) async fn new() -> Bed {
        let mut bed = Bed { dir: TempDir::new().unwrap(), port: 0, running: None };
        bed.start().await;
        let new = admin::NewOrg {
            name: "acme".to_owned(),
            network: "10.77.0.0/24".to_owned(),
            reserved: Vec::new(),
            quarantine_seconds: 60,
        };
        let _made: admin::Org = bed.owner().post("/v1/orgs", &new).await.unwrap();
        bed
    }

    /// Starts it, on the port it had before.
    pub(crate) async fn start(&mut self) {
        // What the one before had under way holds its file until it is done.
        let store = tokio::time::timeout(PATIENCE, async {
            loop {
                match FileStore::open(&self.path("registrar.redb")) {
                    Err(StoreError::Broken(why)) if why.contains("already open") => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    opened => break opened.unwrap(),
                }
            }
        });
        let store = Arc::new(store.await.unwrap());
        let registrar = Registrar::open(self.dir.path(), store).unwrap();
        let devices = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = devices.local_addr().unwrap().port();
        let datagrams = UdpSocket::bind(("127.0.0.1", self.port)).await.unwrap();
        let socket = run::socket(self.dir.path());
        let _absent = std::fs::remove_file(&socket);
        let owner = UnixListener::bind(socket).unwrap();
        self.running = Some(tokio::spawn(async move {
            let sockets = serve::Sockets { devices, datagrams, second: None, owner };
            serve::serve(registrar, sockets).await.map(|never| match never {}).unwrap();
        }));
    }

    /// Ends it and all its connections.
    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        let _cancelled = running.await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner::new(&run::socket(self.dir.path()))
    }

    pub(crate) fn url(&self) -> RegistrarUrl {
        format!("https://127.0.0.1:{}", self.port).parse().unwrap()
    }

    pub(crate) async fn token(&self, uses: Option<u32>) -> Token {
        let new = admin::NewKey { uses, ..admin::NewKey::default() };
        let key: admin::Key = self.owner().post("/v1/orgs/acme/keys", &new).await.unwrap();
        key.token.unwrap().parse().unwrap()
    }

    /// The folder that device `name` keeps its memberships in.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.path("devices").join(name)
    }

    pub(crate) async fn join(&self, name: &str, token: &Token) -> Result<Membership, MembershipError> {
        let wish = Wish { name: name.parse().unwrap(), request_ip: None, endpoints: Vec::new() };
        self.join_as(&self.home(name), token, &wish).await
    }

    pub(crate) async fn join_as(
        &self,
        home: &Path,
        token: &Token,
        wish: &Wish,
    ) -> Result<Membership, MembershipError> {
        tokio::time::timeout(PATIENCE, Membership::join(home, &self.url(), token, wish)).await.unwrap()
    }
}
