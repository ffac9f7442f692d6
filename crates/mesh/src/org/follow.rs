//! An organization as it changes: peers that come, go and move, for whoever runs the tunnel.
//!
//! A thread of its own asks the registrar and goes on asking. While nobody answers, what was verified last stays so. The
//! queue of news is short: while nobody takes them nothing more is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::change::{Change, changes, changes_of_own};
use super::client::ClientError;
use super::label::OrgName;
use super::membership::{Membership, MembershipError};
use super::snapshot::Snapshot;
use super::view::{Unverified, View};
use crate::spec::{Endpoint, PublicKey};
use crate::with_causes;

/// News that wait to be taken.
const WAITING: usize = 4;

/// Between two tries to reach the registrar: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Until the registrar is told again where this device is, when it has not taken it.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// What is verified from then on. The changes that follow from it come next.
    Known(Arc<View>),
    /// This device has this key from then on. What follows from it comes with the next changes.
    Own(PublicKey),
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

/// Follows organization `org` from what is on disk in its folder, `dir`. The thread ends when nobody listens any more, or when
/// this device was revoked.
///
/// # Errors
/// This device has not joined, or what is on disk is damaged; or there is no thread.
pub fn follow(dir: &Path, org: &OrgName) -> Result<Following, MembershipError> {
    let member = Membership::load_in(dir, org)?;
    let followed = member.clone();
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
        let (before, begin) = (member.view().revision(), Instant::now());
        let ended = match follow_once(&mut member, &mut told, news, &mut found).await {
            Err(Ended::Revoked) => match member.take_up().await {
                Ok(true) => {
                    info!(org = %member.trust().org, key = %member.key().public(), "this device has another key");
                    if tell(&member, &mut told, news).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(false) => Err(Ended::Revoked),
                Err(error) => Err(Ended::Failed(error)),
            },
            ended => ended,
        };
        match ended {
            Ok(()) => {}
            Err(Ended::Unheard) => return,
            Err(Ended::Revoked) => {
                warn!(org = %member.trust().org, "this device was revoked");
                // Nobody listens any more, or is told.
                let _unheard = news.send(News::Revoked).await;
                return;
            }
            Err(Ended::Failed(error)) => {
                let error = with_causes(&error);
                warn!(org = %member.trust().org, error, "cannot follow the organization");
                if news.send(News::Away(error)).await.is_err() {
                    return;
                }
            }
        }
        // One that was followed for a while is not one that is away.
        let is_new = member.view().revision() != before || begin.elapsed() >= PAUSE_MAX;
        pause = if is_new { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
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

/// What was told last.
struct Told {
    /// As whom.
    own: PublicKey,
    view: View,
}

async fn follow_once(
    member: &mut Membership,
    told: &mut Option<Told>,
    news: &mpsc::Sender<News>,
    found: &mut watch::Receiver<Vec<Endpoint>>,
) -> Result<(), Ended> {
    let org = member.trust().org.clone();
    let mut watch = member.session().await?.watch(&org, member.view().revision()).await?;
    info!(%org, revision = member.view().revision(), "follows the registrar");
    news.send(News::Reached).await.map_err(|_| Ended::Unheard)?;
    let mut said = say(member, found).await?;
    loop {
        let next = tokio::select! {
            next = watch.next() => next?,
            changed = found.changed() => {
                changed.map_err(|_| Ended::Unheard)?;
                said = say(member, found).await?;
                continue;
            }
            () = tokio::time::sleep(SAY_AGAIN), if !said => {
                said = say(member, found).await?;
                continue;
            }
        };
        let Some(snapshot) = next else { return Ok(()) };
        match taken(member, &snapshot) {
            Ok(()) => {}
            // What is missing is had by asking for everything.
            Err(MembershipError::Unverified(Unverified::Incomplete(_))) if snapshot.since > 0 => {
                let mut all = member.session().await?.watch(&org, 0).await?;
                if let Some(snapshot) = all.next().await? {
                    taken(member, &snapshot).map_err(Ended::Failed)?;
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

/// Takes records in. A disk that takes nothing keeps nobody from being told: who was revoked is so.
fn taken(member: &mut Membership, snapshot: &Snapshot) -> Result<(), MembershipError> {
    match member.take(snapshot) {
        Err(MembershipError::Disk(error)) => {
            let (org, error) = (&member.trust().org, with_causes(&error));
            warn!(%org, error, "what has changed is not kept: the next start will not know it without the registrar");
            Ok(())
        }
        other => other,
    }
}

/// Tells the registrar where this device is reached, if it has found that out and the registrar does not know. False: it
/// was not taken, and is to be said again. Nothing but a revocation keeps this device from following.
async fn say(member: &mut Membership, found: &mut watch::Receiver<Vec<Endpoint>>) -> Result<bool, Ended> {
    let endpoints = found.borrow_and_update().clone();
    if endpoints.is_empty() || member.own().is_none_or(|own| own.endpoints == endpoints) {
        return Ok(true);
    }
    if member.is_said_meanwhile() {
        return Ok(true);
    }
    let org = member.trust().org.clone();
    let told = async {
        member.note_found()?;
        Ok(member.session().await?.move_to(&org, &endpoints).await?)
    };
    match told.await {
        Ok(()) => {
            info!(%org, ?endpoints, "the registrar knows where this device is");
            Ok(true)
        }
        Err(MembershipError::Client(ClientError::Refused { failure, .. })) if failure.code == "revoked" => {
            Err(Ended::Revoked)
        }
        Err(error) => {
            warn!(%org, error = with_causes(&error), "the registrar was not told where this device is");
            Ok(false)
        }
    }
}

/// Says what has changed since the last time.
async fn tell(member: &Membership, told: &mut Option<Told>, news: &mpsc::Sender<News>) -> Result<(), ()> {
    let (own, view) = (member.key().public(), member.view());
    let changes = match told.as_ref() {
        Some(told) if told.own != own => {
            news.send(News::Own(own)).await.map_err(|_| ())?;
            changes_of_own(&told.own, &told.view, member.key(), view)
        }
        Some(told) if told.view == *view => return Ok(()),
        told => changes(&own, told.map(|told| &told.view), view),
    };
    *told = Some(Told { own, view: view.clone() });
    news.send(News::Known(Arc::new(view.clone()))).await.map_err(|_| ())?;
    if changes.is_empty() {
        return Ok(());
    }
    news.send(News::Changes(changes)).await.map_err(|_| ())
}
