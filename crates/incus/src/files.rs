//! Files of an instance, running or not, as the server reads and writes them: as root inside, and at the end of a path no
//! link is followed.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};

use crate::client::instance_target;
use crate::encode::percent_encode;
use crate::exec::upgrade;
use crate::transport::{Said, Saying, protocol};
use crate::{Client, IncusError, Result};

/// Lengthens the answer: what the API wraps a list or an error in.
const WRAPPING_BYTES: usize = 4 << 10;

/// What Incus 6.0 says when its process for the files of an instance has just ended, how often it is asked again, and how
/// soon.
const ENDING: &[u8] = b"forkfile.sock";
const TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_millis(50);

/// A file of an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceFile {
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// What it is and holds.
    pub content: FileContent,
}

impl fmt::Debug for InstanceFile {
    /// Without what it holds: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.content {
            FileContent::Plain(_) => "file",
            FileContent::Link(_) => "symlink",
            FileContent::Directory => "directory",
        };
        write!(f, "{kind} {}:{} {:04o}", self.uid, self.gid, self.mode)
    }
}

/// What a file is and holds.
#[derive(Clone, PartialEq, Eq)]
pub enum FileContent {
    /// These bytes.
    Plain(Bytes),
    /// The way to another file, as it is written there: relative to the link's folder, or from the instance's root.
    Link(Bytes),
    /// Other files.
    Directory,
}

impl Client {
    /// Reads a file of at most `limit_bytes`; `None` when the project, the instance or the file does not exist. The
    /// path starts at the instance's root. About 3 ms.
    ///
    /// # Errors
    /// [`IncusError`], any; `TooLarge` for a longer file.
    pub async fn file(
        &self,
        project: &str,
        name: &str,
        path: &str,
        limit_bytes: usize,
    ) -> Result<Option<InstanceFile>> {
        let Some(target) = instance_target(project, name, "/files") else { return Ok(None) };
        let target = format!("{target}&path={}", percent_encode(path));
        let bytes = limit_bytes.saturating_add(WRAPPING_BYTES);
        let said = self.say_of_files(&target, Saying::get(), bytes).await?;
        if said.status != StatusCode::OK {
            let nothing: Option<serde_json::Value> = self.door().decode(&target, said.status, &said.body)?;
            return match nothing {
                None => Ok(None),
                Some(_) => Err(protocol(&target, "an answer that is no file")),
            };
        }
        let file = of(&said).map_err(|reason| protocol(&target, reason))?;
        match &file.content {
            FileContent::Plain(body) | FileContent::Link(body) if body.len() > limit_bytes => {
                Err(IncusError::TooLarge { request: format!("GET {target}"), limit_bytes })
            }
            _ => Ok(Some(file)),
        }
    }
}

impl Client {
    /// What an instance has said on its console; `None` when the project or the instance does not exist, or it has none.
    /// **Of one that runs the server says it once**: what was read, by anybody, is gone.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn console(&self, project: &str, name: &str) -> Result<Option<Bytes>> {
        let Some(target) = instance_target(project, name, "/console") else { return Ok(None) };
        let (limit, bytes) = (self.limits().request, self.limits().answer_bytes);
        let said = self.door().say(&target, Saying::get(), limit, bytes).await?;
        if said.status == StatusCode::OK {
            return Ok(Some(said.body));
        }
        let nothing: Option<serde_json::Value> = self.door().decode(&target, said.status, &said.body)?;
        match nothing {
            None => Ok(None),
            Some(_) => Err(protocol(&target, "an answer that is no console")),
        }
    }
}

/// Whose a file is, and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOwner {
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl FileOwner {
    /// Root's.
    #[must_use]
    pub const fn root(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode }
    }
}

impl Client {
    /// A connection on which the server speaks SFTP, as root inside and from the instance's root on, whether it runs or not;
    /// `None` when the project or the instance does not exist, or the server knows no such thing. Whoever has the
    /// descriptor has those files and nothing else of the API.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn sftp(&self, project: &str, name: &str) -> Result<Option<OwnedFd>> {
        let Some(target) = instance_target(project, name, "/sftp") else { return Ok(None) };
        let limit = self.limits().request;
        let mut tries = 0;
        loop {
            let opened = tokio::time::timeout(limit, upgrade::sftp(self.door(), &target)).await;
            tries += 1;
            match opened {
                Err(_) => return Err(IncusError::TimedOut { request: format!("GET {target}"), limit }),
                Ok(Err(IncusError::Status { code: 500, .. })) if tries < TRIES => {
                    tokio::time::sleep(AGAIN).await;
                }
                Ok(opened) => return opened,
            }
        }
    }
}

/// What is made.
#[derive(Debug)]
enum Make {
    File(Vec<u8>),
    Directory,
}

impl Client {
    /// Writes a file of root's with this mode, in place of what is there; `None` when the project or the instance does not
    /// exist. Its folder must be there.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn put_file(
        &self,
        project: &str,
        name: &str,
        path: &str,
        mode: u32,
        bytes: Vec<u8>,
    ) -> Result<Option<()>> {
        self.put_file_of(project, name, path, FileOwner::root(mode), bytes).await
    }

    /// The same with an owner.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn put_file_of(
        &self,
        project: &str,
        name: &str,
        path: &str,
        owner: FileOwner,
        bytes: Vec<u8>,
    ) -> Result<Option<()>> {
        self.make((project, name, path), owner, Make::File(bytes)).await
    }

    /// Makes a folder that only root may enter; `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn make_dir(&self, project: &str, name: &str, path: &str) -> Result<Option<()>> {
        self.make_dir_of(project, name, path, FileOwner::root(0o700)).await
    }

    /// The same with an owner. A folder that is there becomes that owner's.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn make_dir_of(
        &self,
        project: &str,
        name: &str,
        path: &str,
        owner: FileOwner,
    ) -> Result<Option<()>> {
        self.make((project, name, path), owner, Make::Directory).await
    }

    /// Removes a file or an empty folder; `None` when there is none.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn remove_file(&self, project: &str, name: &str, path: &str) -> Result<Option<()>> {
        let saying = Saying { method: Method::DELETE, ..Saying::get() };
        self.change(project, name, path, saying).await
    }

    async fn make(
        &self,
        (project, name, path): (&str, &str, &str),
        owner: FileOwner,
        make: Make,
    ) -> Result<Option<()>> {
        let (kind, bytes) = match make {
            Make::File(bytes) => ("file", bytes),
            Make::Directory => ("directory", Vec::new()),
        };
        let (uid, gid, mode) = (owner.uid.to_string(), owner.gid.to_string(), format!("{:04o}", owner.mode));
        let fields = [
            ("uid", uid.as_str()),
            ("gid", gid.as_str()),
            ("mode", mode.as_str()),
            ("type", kind),
            ("write", "overwrite"),
        ];
        // LXD's headers have its own name.
        let named =
            |prefix: &str| fields.map(|(field, value)| (format!("x-{prefix}-{field}"), value.to_owned()));
        let headers = named("incus").into_iter().chain(named("lxd")).collect();
        self.change(project, name, path, Saying { headers, ..Saying::post(bytes) }).await
    }

    async fn change(&self, project: &str, name: &str, path: &str, saying: Saying) -> Result<Option<()>> {
        let Some(target) = instance_target(project, name, "/files") else { return Ok(None) };
        let target = format!("{target}&path={}", percent_encode(path));
        let said = self.say_of_files(&target, saying, WRAPPING_BYTES).await?;
        let done: Option<serde::de::IgnoredAny> = self.door().decode(&target, said.status, &said.body)?;
        Ok(done.map(|_| ()))
    }
}

impl Client {
    /// Says what may be said again, and says it again when the process that the server has for the files of an instance
    /// was just ending: it lives as long as it is used.
    async fn say_of_files(&self, target: &str, saying: Saying, limit_bytes: usize) -> Result<Said> {
        let mut tries = 0;
        loop {
            let said = self.door().say(target, saying.clone(), self.limits().request, limit_bytes).await?;
            tries += 1;
            let was_ending = said.status == StatusCode::INTERNAL_SERVER_ERROR
                && said.body.windows(ENDING.len()).any(|window| window == ENDING);
            if !was_ending || tries == TRIES {
                return Ok(said);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The file in an answer. LXD's headers have its own name.
fn of(said: &Said) -> std::result::Result<InstanceFile, String> {
    let field = |name: &str| {
        let named = |prefix| said.header(&format!("{prefix}{name}"));
        named("x-incus-").or_else(|| named("x-lxd-")).ok_or_else(|| format!("a file without {name}"))
    };
    let id = |name: &str| field(name)?.parse().map_err(|_| format!("a file with a strange {name}"));
    let mode = u32::from_str_radix(field("mode")?.trim_start_matches("0o"), 8);
    let mode = mode.map_err(|_| "a file with a strange mode".to_owned())?;
    let content = match field("type")? {
        "file" => FileContent::Plain(said.body.clone()),
        "symlink" => FileContent::Link(said.body.clone()),
        "directory" => FileContent::Directory,
        kind => return Err(format!("a file of type {kind:.20?}")),
    };
    Ok(InstanceFile { uid: id("uid")?, gid: id("gid")?, mode, content })
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn said(headers: &[(&'static str, &'static str)]) -> Said {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("text")))
            .collect();
        Said { status: StatusCode::OK, headers, body: Bytes::from_static(b"text") }
    }

    #[test]
    fn an_owner_that_is_no_number_is_not_root() {
        let with = |uid, mode| {
            of(&said(&[
                ("x-incus-uid", uid),
                ("x-incus-gid", "7"),
                ("x-incus-mode", mode),
                ("x-incus-type", "file"),
            ]))
        };
        let file = with("1000", "0640").expect("a file");
        assert_eq!((file.uid, file.gid, file.mode), (1000, 7, 0o640));
        assert_eq!(format!("{file:?}"), "file 1000:7 0640", "what it holds is not shown");
        for uid in ["", "-1", "root", "4294967296"] {
            assert!(with(uid, "0640").is_err(), "{uid}");
        }
        assert!(with("0", "rw").is_err());
        assert!(of(&said(&[])).is_err());
    }
}
