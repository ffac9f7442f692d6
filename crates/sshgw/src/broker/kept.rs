//! Sessions that stay, of all users of an instance: for an operator, whether a gateway runs or not.
//!
//! They are the instance's, and no gateway knows of them. So the instance is asked, by the gateway's own program: put there
//! for this one question, it becomes each user in turn and asks that one's sessions. What it says is the instance's word.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use portway_incus::{Client, ExecEnd, ExecSpec, FileContent, IncusError, Whole, status_code};
use portway_model::rfc3339;
use portway_proto::guest::{Listed, Says};
use serde::Serialize;

use super::account::{self, Found};
use super::helper::Way;
use crate::auth::accounts;
use crate::guest::{Instance, PlaceError, launch};

/// How long a question may take: less than putting the program there has.
const ANSWER: Duration = Duration::from_secs(18);

/// Most that is read of an answer, bytes.
const ANSWER_BYTES: usize = 1 << 20;

/// Where users are.
const PASSWD: &str = "/etc/passwd";

/// A session that stays, as programs get it. Stable: fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptSession {
    /// Its name.
    pub name: String,
    /// Whose it is; the number of one that the instance has no name for.
    pub user: String,
    /// That number.
    pub uid: u32,
    /// What is known of it: `kept`, `silent` or `other-version`; of the last two nothing of what follows.
    pub state: &'static str,
    /// Since when it is there, as RFC 3339 has it, by the instance's clock and this host's.
    pub since: Option<String>,
    /// How many look at it.
    pub viewers: Option<u16>,
    /// Columns of its terminal.
    pub columns: Option<u16>,
    /// Rows of its terminal.
    pub rows: Option<u16>,
    /// Its shell, as the instance numbers it.
    pub pid: Option<u32>,
    /// What runs in front on its terminal.
    pub command: Option<String>,
    /// Title that its program has set.
    pub title: Option<String>,
}

/// Why nothing is known of the sessions of an instance, or one does not end.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is no such instance.
    #[error("there is no instance {0}")]
    NoInstance(String),
    /// It cannot run anything.
    #[error("instance {0} {1}")]
    NotRunning(String, &'static str),
    /// There is no such user in it.
    #[error("there is no user {0} in {1}")]
    NoUser(String, String),
    /// There is no such session.
    #[error("there is no session {0} in {1}")]
    NoSession(String, String),
    /// Several users have one of this name.
    #[error("several users have a session {name}: {}", users.join(", "))]
    Several {
        /// The name.
        name: String,
        /// Who.
        users: Vec<String>,
    },
    /// The server cannot be asked.
    #[error("cannot ask for the sessions of {0}")]
    Server(String, #[source] IncusError),
    /// Nothing can be asked inside.
    #[error("cannot ask inside {0}")]
    Inside(String, #[source] PlaceError),
    /// What was asked there says why not.
    #[error("{0}: {1}")]
    Said(String, String),
}

/// An instance that is asked.
#[derive(Debug, Clone)]
pub struct KeptIn {
    client: Client,
    is_far: bool,
    project: String,
    instance: String,
}

impl KeptIn {
    /// One of a server that [`super::server_client`] has given. Nothing is asked yet.
    #[must_use]
    pub fn new((client, is_far): (Client, bool), project: String, instance: String) -> Self {
        Self { client, is_far, project, instance }
    }

    /// All sessions that stay, or those of one user; by user and name.
    ///
    /// # Errors
    /// [`KeptError`].
    pub async fn list(&self, user: Option<&str>) -> Result<Vec<KeptSession>, KeptError> {
        self.runs().await?;
        let whose = match user {
            Some(user) => self.uid(user).await?.to_string(),
            None => "-".to_owned(),
        };
        let said = self.ask(&["list", &whose]).await?;
        let (names, now) = (self.names().await, SystemTime::now());
        let text = String::from_utf8_lossy(&said);
        let lines = text.lines().filter_map(Listed::read);
        let mut sessions: Vec<_> = lines.map(|listed| told(listed, &names, now)).collect();
        sessions.sort_by(|one, two| (one.uid, &one.name).cmp(&(two.uid, &two.name)));
        Ok(sessions)
    }

    /// Ends a session: that of this user, or of the only one who has one of this name. Whose it was.
    ///
    /// # Errors
    /// [`KeptError`]; nothing was ended then.
    pub async fn end(&self, user: Option<&str>, name: &str) -> Result<String, KeptError> {
        let mut found = self.list(user).await?;
        found.retain(|session| session.name == name);
        match found.as_slice() {
            [] => Err(KeptError::NoSession(name.to_owned(), self.instance.clone())),
            [one] => {
                self.ask(&["end", &one.uid.to_string(), name]).await?;
                Ok(one.user.clone())
            }
            several => {
                let users = several.iter().map(|session| session.user.clone()).collect();
                Err(KeptError::Several { name: name.to_owned(), users })
            }
        }
    }

    async fn runs(&self) -> Result<(), KeptError> {
        let name = || self.instance.clone();
        let found = self.client.instance(&self.project, &self.instance).await;
        let found = found.map_err(|error| KeptError::Server(name(), error))?;
        match found.ok_or_else(|| KeptError::NoInstance(name()))? {
            found if found.is_running() => Ok(()),
            found if found.status_code == status_code::FROZEN => {
                Err(KeptError::NotRunning(name(), "is frozen"))
            }
            _ => Err(KeptError::NotRunning(name(), "is not running, and what it kept has ended")),
        }
    }

    async fn uid(&self, user: &str) -> Result<u32, KeptError> {
        let found = account::find(&self.client, &self.project, &self.instance, user).await;
        match found.map_err(|error| KeptError::Server(self.instance.clone(), error))? {
            Found::Account(account) => Ok(account.uid),
            Found::NoUser => Err(KeptError::NoUser(user.to_owned(), self.instance.clone())),
            Found::NoInstance => Err(KeptError::NoInstance(self.instance.clone())),
        }
    }

    /// Names of the instance's users, as far as it says so.
    async fn names(&self) -> BTreeMap<u32, String> {
        let limit = accounts::FILE_MAX_BYTES;
        let file = account::read(&self.client, &self.project, &self.instance, PASSWD, limit).await;
        match file.ok().flatten().map(|file| file.content) {
            Some(FileContent::Plain(text)) => named(&String::from_utf8_lossy(&text)),
            _ => BTreeMap::from([(0, "root".to_owned())]),
        }
    }

    /// Asks by the program; what it says.
    async fn ask(&self, words: &[&str]) -> Result<Vec<u8>, KeptError> {
        let words: Vec<String> = ["kept"].iter().chain(words).map(|&word| word.to_owned()).collect();
        let way = Way::to(&self.client, self.is_far, &self.project, &self.instance, BTreeMap::new()).await;
        let way = way.map_err(|error| KeptError::Server(self.instance.clone(), error))?;
        let way = OneAnswer(way.ok_or_else(|| KeptError::NoInstance(self.instance.clone()))?);
        let launched = launch(&way, 0, &words).await;
        let launched = launched.map_err(|error| KeptError::Inside(self.instance.clone(), error))?;
        // It has removed its file before it did anything; one that could not has not.
        launched.clear(&way).await;
        let Whole { end, output } = launched.streams;
        match end {
            Some(ExecEnd::Status(0)) => Ok(output),
            None => Err(KeptError::Said(self.instance.clone(), "it does not answer".to_owned())),
            Some(_) => Err(KeptError::Said(self.instance.clone(), last_line(&output))),
        }
    }
}

/// The way into an instance on which a program is not talked to: it says something and ends.
struct OneAnswer(Way);

impl Instance for OneAnswer {
    type Streams = Whole;

    fn architecture(&self) -> &str {
        self.0.architecture()
    }

    async fn make_dir(&self, path: &str) -> io::Result<()> {
        self.0.make_dir(path).await
    }

    async fn put(&self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.0.put(path, mode, bytes).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path).await
    }

    async fn run(&self, args: &[&str]) -> io::Result<Whole> {
        let spec = ExecSpec::of_root(args.iter().map(|&arg| arg.to_owned()).collect(), BTreeMap::new());
        let ran = self.0.run_whole(&spec, (ANSWER, ANSWER_BYTES)).await?;
        match &ran.end {
            // The place does not execute.
            Some(ExecEnd::Status(status @ (126 | 127))) => {
                Err(io::Error::other(format!("it cannot be run there: status {status}")))
            }
            Some(ExecEnd::Failed(why)) => Err(io::Error::other(why.clone())),
            Some(ExecEnd::Status(_)) | None => Ok(ran),
        }
    }
}

fn told(listed: Listed, names: &BTreeMap<u32, String>, now: SystemTime) -> KeptSession {
    let Listed { uid, name, says } = listed;
    let user = names.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
    let unknown = KeptSession {
        name,
        user,
        uid,
        state: "silent",
        since: None,
        viewers: None,
        columns: None,
        rows: None,
        pid: None,
        command: None,
        title: None,
    };
    match says {
        Says::Silence => unknown,
        Says::Other(_) => KeptSession { state: "other-version", ..unknown },
        Says::State { state, command } => KeptSession {
            state: "kept",
            since: now.checked_sub(Duration::from_secs(state.age_secs)).map(rfc3339),
            viewers: Some(state.viewers),
            columns: Some(state.size.columns),
            rows: Some(state.size.rows),
            pid: Some(state.pid),
            command: Some(command),
            title: Some(state.title),
            ..unknown
        },
    }
}

/// Names by numbers, of a text as passwd(5) has it; of several the first. What is no plain name is none.
fn named(passwd: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        if let Ok(uid) = uid.parse()
            && !name.is_empty()
            && !name.chars().any(char::is_control)
        {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// Of what a program says when it fails.
fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    let line = line.strip_prefix("portway: ").unwrap_or(line);
    line.chars().take(300).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use portway_proto::guest::{HeldState, Size};

    use super::*;

    #[test]
    fn users_have_their_names() {
        let names =
            named("root:x:0:0::/root:/bin/sh\nbob:x:1000:1000\ntoor:x:0:0\nodd\n:x:7:7\na\u{1b}b:x:9:9\n");
        assert_eq!(names, BTreeMap::from([(0, "root".to_owned()), (1000, "bob".to_owned())]));
    }

    #[test]
    fn what_is_unknown_is_not_told() {
        let size = Size { columns: 80, rows: 24, ..Size::default() };
        let state = HeldState { pid: 7, viewers: 1, size, age_secs: 60, title: String::new() };
        let listed = |says| Listed { uid: 1000, name: "work".to_owned(), says };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(120);
        let kept = told(listed(Says::State { state, command: "vi".to_owned() }), &BTreeMap::new(), now);
        assert_eq!((kept.user.as_str(), kept.state), ("1000", "kept"));
        assert_eq!(kept.since.as_deref(), Some("1970-01-01T00:01:00.000Z"));
        let other = told(listed(Says::Other(9)), &BTreeMap::new(), now);
        assert_eq!((other.state, other.since, other.pid), ("other-version", None, None));
    }

    #[test]
    fn a_fault_is_one_line() {
        assert_eq!(
            last_line(b"x\nportway: there is no session \x1b[2J\n\n"),
            "there is no session \\u{1b}[2J"
        );
        assert_eq!(last_line(b""), "it says nothing");
    }
}
