//! An organization as it changes: peers that come, go and move, for whoever runs the tunnel.
//!
//! A thread of its own asks the registrar and goes on asking. While nobody answers, what was verified last stays so. The
//! queue of changes is short: whoever does not take them is not run after, since what has not been taken yet is worked
//! out anew from what is known then.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::change::{Change, changes};
use super::client::ClientError;
use super::label::OrgName;
use super::membership::{Membership, MembershipError};
use super::view::{Unverified, View};

/// Lists of changes that wait to be taken.
const WAITING: usize = 4;

/// Between two tries to reach the registrar: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// To be applied in this order, and all of it before the next.
    Changes(Vec<Change>),
    /// This device is a member no more: its sessions end at once.
    Revoked,
}

/// Follows organization `org` of `mesh_dir` from what is on disk. The first news are all its peers as of then. The thread
/// ends when nobody listens any more, at the latest a change or a try later, or when this device was revoked.
///
/// # Errors
/// This device has not joined, or what is on disk is damaged; or there is no thread.
pub fn follow(mesh_dir: &Path, org: &OrgName) -> Result<(Membership, Receiver<News>), MembershipError> {
    let member = Membership::load(mesh_dir, org)?;
    let followed = Membership::load(mesh_dir, org)?;
    let (sender, receiver) = sync_channel(WAITING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |source| {
        let path = PathBuf::from("mesh-follow");
        MembershipError::from(super::disk::DiskError::Write { path, source })
    };
    let runtime = runtime.map_err(failed)?;
    let run = move || runtime.block_on(run(followed, &sender));
    thread::Builder::new().name("mesh-follow".to_owned()).spawn(run).map_err(failed)?;
    Ok((member, receiver))
}

async fn run(mut member: Membership, news: &SyncSender<News>) {
    let mut told = None;
    let mut pause = PAUSE;
    if tell(&member, &mut told, news).await.is_err() {
        return;
    }
    loop {
        let before = member.view().revision();
        match watch(&mut member, &mut told, news).await {
            Ok(()) => {}
            Err(Ended::Unheard) => return,
            Err(Ended::Revoked) => {
                warn!(org = %member.trust().org, "this device was revoked");
                // Nobody listens any more, or is told.
                let _unheard = news.send(News::Revoked);
                return;
            }
            Err(Ended::Failed(error)) => {
                warn!(org = %member.trust().org, %error, "cannot follow the organization");
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

async fn watch(
    member: &mut Membership,
    told: &mut Option<View>,
    news: &SyncSender<News>,
) -> Result<(), Ended> {
    let org = member.trust().org.clone();
    let mut watch = member.session().await?.watch(&org, member.view().revision()).await?;
    info!(%org, revision = member.view().revision(), "follows the registrar");
    while let Some(snapshot) = watch.next().await? {
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
    Ok(())
}

/// Says what has changed since the last time; nobody else's time is taken while the queue is full.
async fn tell(member: &Membership, told: &mut Option<View>, news: &SyncSender<News>) -> Result<(), ()> {
    let changes = changes(&member.key().public(), told.as_ref(), member.view());
    *told = Some(member.view().clone());
    if changes.is_empty() {
        return Ok(());
    }
    let mut waiting = News::Changes(changes);
    loop {
        match news.try_send(waiting) {
            Ok(()) => return Ok(()),
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return Err(()),
            Err(std::sync::mpsc::TrySendError::Full(back)) => {
                waiting = back;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
