//! An organization as it changes: peers that come, go and move, for whoever runs the tunnel.
//!
//! A thread of its own asks the registrar and goes on asking. While nobody answers, what was verified last stays so. The
//! queue of news is short: while nobody takes them nothing more is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::change::{Change, changes};
use super::client::ClientError;
use super::label::OrgName;
use super::membership::{Membership, MembershipError};
use super::view::{Unverified, View};
use crate::spec::Endpoint;

/// News that wait to be taken.
const WAITING: usize = 4;

/// Between two tries to reach the registrar: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// What is verified from then on. The changes that follow from it come next.
    Known(Arc<View>),
    /// To be applied in this order, and all of it before the next.
    Changes(Vec<Change>),
    /// The registrar is followed.
    Reached,
    /// It is not, and why. What was known stays so.
    Away(String),
    /// This device is a member no more: its sessions end at once.
    Revoked,
}

/// An organization that is followed.
#[derive(Debug)]
pub struct Following {
    /// As it was at the start.
    pub member: Membership,
    /// What has become of it. The first news are all its peers as of then.
    pub news: mpsc::Receiver<News>,
    /// Where this device has found that it is reached; the registrar is told, and all others by it.
    pub found: watch::Sender<Vec<Endpoint>>,
}

/// Follows organization `org` of `mesh_dir` from what is on disk. The thread ends when nobody listens any more, or when
/// this device was revoked.
///
/// # Errors
/// This device has not joined, or what is on disk is damaged; or there is no thread.
pub fn follow(mesh_dir: &Path, org: &OrgName) -> Result<Following, MembershipError> {
    let member = Membership::load(mesh_dir, org)?;
    let followed = Membership::load(mesh_dir, org)?;
    let (sender, news) = mpsc::channel(WAITING);
    let (found, to_say) = watch::channel(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |source| {
        let path = PathBuf::from("mesh-follow");
        MembershipError::from(super::disk::DiskError::Write { path, source })
    };
    let runtime = runtime.map_err(failed)?;
    let unheard = sender.clone();
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                () = run(followed, &sender, to_say) => {}
                () = unheard.closed() => {}
            }
        });
    };
    thread::Builder::new().name("mesh-follow".to_owned()).spawn(run).map_err(failed)?;
    Ok(Following { member, news, found })
}

async fn run(mut member: Membership, news: &mpsc::Sender<News>, mut found: watch::Receiver<Vec<Endpoint>>) {
    let mut told = None;
    let mut pause = PAUSE;
    if tell(&member, &mut told, news).await.is_err() {
        return;
    }
    loop {
        let before = member.view().revision();
        match follow_once(&mut member, &mut told, news, &mut found).await {
            Ok(()) => {}
            Err(Ended::Unheard) => return,
            Err(Ended::Revoked) => {
                warn!(org = %member.trust().org, "this device was revoked");
                // Nobody listens any more, or is told.
                let _unheard = news.send(News::Revoked).await;
                return;
            }
            Err(Ended::Failed(error)) => {
                warn!(org = %member.trust().org, %error, "cannot follow the organization");
                if news.send(News::Away(error.to_string())).await.is_err() {
                    return;
                }
            }
        }
        pause = if member.view().revision() == before { (pause * 2).min(PAUSE_MAX) } else { PAUSE };
        tokio::time::sleep(pause).await;
    }
}

/// Why nothing is followed any more.
enum Ended {
    /// Nobody listens.
    Unheard,
    /// This device is no member.
    Revoked,
    Failed(MembershipError),
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Ended {
        match &error {
            ClientError::Refused { failure, .. } if failure.code == "revoked" => Ended::Revoked,
            _ => Ended::Failed(error.into()),
        }
    }
}

async fn follow_once(
    member: &mut Membership,
    told: &mut Option<View>,
    news: &mpsc::Sender<News>,
    found: &mut watch::Receiver<Vec<Endpoint>>,
) -> Result<(), Ended> {
    let org = member.trust().org.clone();
    let mut watch = member.session().await?.watch(&org, member.view().revision()).await?;
    info!(%org, revision = member.view().revision(), "follows the registrar");
    news.send(News::Reached).await.map_err(|_| Ended::Unheard)?;
    say(member, found).await?;
    loop {
        let next = tokio::select! {
            next = watch.next() => next?,
            changed = found.changed() => {
                changed.map_err(|_| Ended::Unheard)?;
                say(member, found).await?;
                continue;
            }
        };
        let Some(snapshot) = next else { return Ok(()) };
        match member.take(&snapshot) {
            Ok(()) => {}
            // What is missing is had by asking for everything.
            Err(MembershipError::Unverified(Unverified::Incomplete(_))) if snapshot.since > 0 => {
                let mut all = member.session().await?.watch(&org, 0).await?;
                if let Some(snapshot) = all.next().await? {
                    member.take(&snapshot).map_err(Ended::Failed)?;
                }
                watch = all;
            }
            Err(error) => return Err(Ended::Failed(error)),
        }
        if member.own().is_none() {
            return Err(Ended::Revoked);
        }
        tell(member, told, news).await.map_err(|()| Ended::Unheard)?;
    }
}

/// Tells the registrar where this device is reached, if it has found that out and the registrar does not know.
async fn say(member: &mut Membership, found: &mut watch::Receiver<Vec<Endpoint>>) -> Result<(), Ended> {
    let endpoints = found.borrow_and_update().clone();
    if endpoints.is_empty() || member.own().is_none_or(|own| own.endpoints == endpoints) {
        return Ok(());
    }
    member.note_found().map_err(Ended::Failed)?;
    let org = member.trust().org.clone();
    match member.session().await?.move_to(&org, &endpoints).await {
        Ok(()) => {}
        // It is said again when there is something new, or with the next connection.
        Err(ClientError::Refused { status: 429, failure }) => {
            warn!(%org, error = failure.error, "the registrar was not told where this device is");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    info!(%org, ?endpoints, "the registrar knows where this device is");
    Ok(())
}

/// Says what has changed since the last time.
async fn tell(member: &Membership, told: &mut Option<View>, news: &mpsc::Sender<News>) -> Result<(), ()> {
    let view = member.view();
    if told.as_ref() == Some(view) {
        return Ok(());
    }
    let changes = changes(&member.key().public(), told.as_ref(), view);
    *told = Some(view.clone());
    news.send(News::Known(Arc::new(view.clone()))).await.map_err(|_| ())?;
    if changes.is_empty() {
        return Ok(());
    }
    news.send(News::Changes(changes)).await.map_err(|_| ())
}
