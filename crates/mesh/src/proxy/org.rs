//! A network that is an organization: its peers come and go as its registrar says, for as long as it runs.
//!
//! What was verified last is used while the registrar is away. A peer that was revoked is gone from the tunnel before
//! anybody is told, and connections to its addresses are ended.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portway_control::api::{MeshMapping, MeshOrg, MeshOutside};
use portway_model::Cidr;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::cut::Stuck;
use super::serve::Shared;
use super::{discover, endpoints};
use crate::org::follow::{Following, News};
use crate::org::membership::Membership;
use crate::org::{Change, KEEPALIVE, OrgName, View};
use crate::spec::{Peer, PublicKey};
use crate::tunnel::{self, TunnelError};
use crate::wg::{AllowedIps, PeerId, PeerSpec, PeerState, Routes};

/// Until a tunnel that has not answered is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which organization is followed.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Folder of this one.
    pub dir: PathBuf,
    /// Which one.
    pub org: OrgName,
}

/// What is known of the organization.
pub(super) struct Organization {
    name: OrgName,
    registrar: String,
    /// Whether it is to be found out where this device is reached: then it may be behind a translation of addresses,
    /// through which nobody comes to whom nothing has been sent.
    is_hidden: bool,
    known: Mutex<Known>,
}

struct Known {
    /// Of this device.
    key: PublicKey,
    view: Arc<View>,
    /// Addresses that other members have, or that lie behind one.
    others: Arc<Routes>,
    /// Since when it is so; and why, when the registrar is away.
    since: Instant,
    away: Option<String>,
    /// How this device is seen from outside, and whether it was said that its NAT is symmetric.
    outside: Vec<MeshOutside>,
    told_symmetric: bool,
}

impl Organization {
    pub(super) fn new(member: &Membership) -> Organization {
        let away = Some("it was not asked yet".to_owned());
        let known = Known {
            key: member.key().public(),
            view: Arc::new(member.view().clone()),
            others: Arc::new(others(member.view(), &member.key().public())),
            since: Instant::now(),
            away,
            outside: Vec::new(),
            told_symmetric: false,
        };
        Organization {
            name: member.trust().org.clone(),
            registrar: member.registrar().to_string(),
            is_hidden: member.is_found(),
            known: Mutex::new(known),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of this device.
    pub(super) fn key(&self) -> PublicKey {
        self.known().key
    }

    /// What a peer is called.
    pub(super) fn name_of(&self, key: &PublicKey) -> Option<String> {
        let view = Arc::clone(&self.known().view);
        view.record(key).and_then(|record| record.device()).map(|device| device.name.to_string())
    }

    /// Whether another member has an address, or it lies behind one.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        let others = Arc::clone(&self.known().others);
        others.owner(ip).is_some()
    }

    /// Takes how this device is seen from outside; what is to be said of it, once.
    pub(super) fn see(&self, outside: Vec<MeshOutside>) -> Option<String> {
        let mut known = self.known();
        let place = outside.iter().find(|seen| seen.mapping == MeshMapping::Symmetric);
        let address = place.map(|seen| seen.address.clone());
        known.outside = outside;
        let address = address.filter(|_| !std::mem::replace(&mut known.told_symmetric, true))?;
        Some(format!(
            "symmetric NAT: the registrar sees {address}, others another port each; \
             members behind routers are reached through a hub"
        ))
    }

    /// A peer, as the tunnel is to have it.
    fn put(&self, peer: &Peer) -> tunnel::Change {
        let hidden = self.is_hidden && peer.endpoint.is_some();
        let keepalive = if hidden { Some(KEEPALIVE) } else { peer.keepalive };
        tunnel::Change::Put(PeerSpec { keepalive, ..spec(peer) })
    }

    pub(super) fn status(&self, now: Instant) -> MeshOrg {
        let known = self.known();
        let others = known.view.devices().filter(|device| device.hub && device.key != known.key);
        let own = known.view.record(&known.key).and_then(|record| record.device());
        MeshOrg {
            organization: self.name.to_string(),
            device: own.map(|device| device.name.to_string()).unwrap_or_default(),
            revision: known.view.revision(),
            devices: known.view.devices().count(),
            registrar: self.registrar.clone(),
            reachable: known.away.is_none(),
            since_seconds: now.saturating_duration_since(known.since).as_secs(),
            error: known.away.clone(),
            hub: own.is_some_and(|own| own.hub),
            hubs: others.map(|device| device.name.to_string()).collect(),
            outside: known.outside.clone(),
        }
    }
}

/// What others than `own` have, as it is asked for each connection.
fn others(view: &View, own: &PublicKey) -> Routes {
    let mut all = AllowedIps::default();
    for device in view.devices().filter(|device| device.key != *own) {
        let addresses = [(IpAddr::from(device.ip4), 32), (IpAddr::from(device.ip6), 128)];
        let addresses = addresses.into_iter().filter_map(|(ip, prefix)| Cidr::new(ip, prefix));
        for block in addresses.chain(device.routes.iter().copied()) {
            // Whose is not asked.
            all.assign(block, PeerId(0));
        }
    }
    all.routes()
}

/// All addresses.
fn everybody() -> Vec<Cidr> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    any.into_iter().filter_map(|ip| Cidr::new(ip, 0)).collect()
}

/// Who passes messages on.
#[derive(PartialEq, Eq)]
struct Hubs {
    hubs: Vec<PublicKey>,
    /// This device does.
    relays: bool,
}

impl Hubs {
    fn of(view: &View, own: &PublicKey) -> Hubs {
        let all: Vec<PublicKey> =
            view.devices().filter(|device| device.hub).map(|device| device.key).collect();
        let relays = all.contains(own);
        Hubs { hubs: all.into_iter().filter(|hub| hub != own).collect(), relays }
    }
}

/// What the network is to do.
pub(super) enum Order {
    /// Connections were to end, and end with the worker that does not listen.
    Replace(Stuck),
    /// To be told once.
    Say(String),
    /// This device is no member any more.
    End(OrgName),
}

/// Follows, and says where this device is reached if nobody has, as long as what is returned is there.
pub(super) fn begin(shared: &Arc<Shared>, followed: Following, orders: &mpsc::Sender<Order>) -> JoinSet<()> {
    let Following { member, news, found } = followed;
    let mut tasks = JoinSet::new();
    tasks.spawn(attend(Arc::clone(shared), news, orders.clone()));
    if member.is_found() {
        let registrar = member.registrar().clone();
        tasks.spawn(discover::run(Arc::clone(shared), registrar, found, orders.clone()));
    } else {
        // Whoever follows ends with it.
        tasks.spawn(async move { found.closed().await });
    }
    tasks
}

/// Does what is said, until nothing is said any more.
async fn attend(shared: Arc<Shared>, mut news: mpsc::Receiver<News>, orders: mpsc::Sender<Order>) {
    let Some(organization) = shared.organization.as_ref() else { return };
    let (mut was_told, mut hubs) = (false, None);
    while let Some(new) = news.recv().await {
        let order = match new {
            News::Own(key) => {
                let mut known = organization.known();
                known.others = Arc::new(others(&known.view, &key));
                known.key = key;
                drop(known);
                Some(Order::Say(format!("this device has another key: {key}")))
            }
            News::Known(view) => {
                let own = organization.key();
                for device in view.devices().filter(|device| device.key != own) {
                    shared.whereabouts.put(device.key, device.endpoints.clone());
                }
                let new = Hubs::of(&view, &own);
                let others = Arc::new(others(&view, &own));
                {
                    let mut known = organization.known();
                    (known.view, known.others) = (view, others);
                }
                if hubs.as_ref() != Some(&new) {
                    // They may be peers already; those that are to come are known then.
                    shared.whereabouts.set_hubs(new.hubs.clone());
                    let change = tunnel::Change::Hubs { hubs: new.hubs.clone(), relays: new.relays };
                    if let Err(error) = make(&shared, vec![change], Vec::new()).await {
                        warn!(%error, "hubs not changed");
                    }
                    hubs = Some(new);
                }
                None
            }
            News::Changes(changes) => apply(&shared, changes).await,
            News::Reached => {
                let mut known = organization.known();
                (known.away, known.since) = (None, Instant::now());
                std::mem::take(&mut was_told).then(|| Order::Say("the registrar answers again".to_owned()))
            }
            News::Away(why) => {
                let mut known = organization.known();
                let is_new = known.away.as_ref() != Some(&why);
                if known.away.is_none() {
                    known.since = Instant::now();
                }
                known.away = Some(why.clone());
                let revision = known.view.revision();
                drop(known);
                was_told |= is_new;
                is_new.then(|| Order::Say(format!("{why}; peers are those of revision {revision}")))
            }
            News::Revoked => {
                // Whatever keeps the network from ending at once, nothing goes on meanwhile.
                shared.cut_members(everybody()).await.ok();
                Some(Order::End(organization.name.clone()))
            }
        };
        let said = match order {
            None => Ok(()),
            // What is to be done waits for nobody who is to be told something.
            Some(order @ Order::Say(_)) => orders.try_send(order),
            Some(order) => orders.send(order).await.map_err(|gone| TrySendError::Closed(gone.0)),
        };
        match said {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => debug!("not told: too much is to be told"),
            // Whoever does not take it is ending.
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

/// Makes the tunnel's peers what they are to be.
async fn apply(shared: &Arc<Shared>, changes: Vec<Change>) -> Option<Order> {
    let organization = shared.organization.as_ref()?;
    // What each peer has from then on.
    let mut kept = Vec::new();
    let mut wanted = Vec::new();
    for change in changes {
        match change {
            Change::Added(peer) | Change::Altered(peer) => {
                kept.push((peer.public_key, peer.allowed_ips.clone()));
                wanted.push(organization.put(&peer));
            }
            Change::Removed(key) => {
                shared.whereabouts.remove(&key);
                kept.push((key, Vec::new()));
                wanted.push(tunnel::Change::Remove(key));
            }
            // It is who it was: connections to what it still has go on.
            Change::Rekeyed(former, peer) => {
                shared.whereabouts.remove(&former);
                shared.table().rekey(former, peer.public_key);
                kept.push((former, peer.allowed_ips.clone()));
                wanted.push(tunnel::Change::Remove(former));
                wanted.push(organization.put(&peer));
            }
            Change::Own(key) => wanted.push(tunnel::Change::Own(key)),
            // Where it is tried when it is not reached.
            Change::Endpoint(..) => {}
        }
    }
    if wanted.is_empty() {
        return None;
    }
    let count = wanted.len();
    match make(shared, wanted, kept).await {
        Ok(had) => {
            info!(count, "peers changed");
            // By this task and nobody else: whoever serves may be busy with something that takes its time.
            if had.is_empty() { None } else { shared.cut_members(had).await.err().map(Order::Replace) }
        }
        Err(error) => {
            warn!(%error, "peers not changed");
            Some(Order::Say(format!("peers could not be changed: {error}")))
        }
    }
}

/// Makes these changes, after which each of the peers `kept` has these addresses, and says which ones it had. A tunnel that does not answer is asked
/// until it does: what was revoked is not to stay.
async fn make(
    shared: &Arc<Shared>,
    wanted: Vec<tunnel::Change>,
    kept: Vec<(PublicKey, Vec<Cidr>)>,
) -> Result<Vec<Cidr>, TunnelError> {
    // Once it is made nobody can be asked what they had.
    let mut had = kept.is_empty().then(Vec::new);
    loop {
        if had.is_none() {
            let asked = Arc::clone(shared);
            let states = spawn_blocking(move || asked.tunnel.peers()).await.ok().flatten();
            had = states.map(|states| lost(&states, &kept));
        }
        if had.is_some() {
            let (asked, wanted) = (Arc::clone(shared), wanted.clone());
            match spawn_blocking(move || asked.tunnel.change(wanted)).await {
                Ok(Ok(())) => return Ok(had.unwrap_or_default()),
                Ok(Err(error @ TunnelError::Peers(_))) => return Err(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        warn!("the tunnel does not answer: its peers are changed later");
        sleep(AGAIN).await;
    }
}

impl Shared {
    /// Whether this is an organization's network, and an address in it is nobody's, or not any more.
    pub(super) fn is_gone(&self, member: Option<IpAddr>) -> bool {
        let (Some(organization), Some(member)) = (&self.organization, member) else { return false };
        !organization.has(member) && self.about.network.addresses.iter().all(|own| own.ip != member)
    }
}

/// Which addresses peers had that they do not keep.
fn lost(states: &[PeerState], kept: &[(PublicKey, Vec<Cidr>)]) -> Vec<Cidr> {
    let kept: BTreeMap<&PublicKey, &Vec<Cidr>> = kept.iter().map(|(key, blocks)| (key, blocks)).collect();
    let of = |state: &PeerState| {
        let kept = kept.get(&state.public_key)?;
        Some(state.allowed_ips.iter().copied().filter(|block| !kept.contains(block)).collect::<Vec<_>>())
    };
    states.iter().filter_map(of).flatten().collect()
}

fn spec(peer: &Peer) -> PeerSpec {
    PeerSpec {
        public_key: peer.public_key,
        preshared_key: peer.preshared_key.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        endpoint: peer.endpoint.as_ref().and_then(endpoints::known),
        keepalive: peer.keepalive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PrivateKey;

    /// Fails when: connections to addresses that a member has no more go on, or those to one that it keeps end.
    #[test]
    fn what_a_member_has_no_more_is_cut() {
        let key = |byte| PrivateKey::from_bytes(&[byte; 32]).unwrap().public();
        let block = |last| Cidr::new(IpAddr::from([10, 0, 0, last]), 32).unwrap();
        let state = |byte, blocks: &[u8]| PeerState {
            public_key: key(byte),
            allowed_ips: blocks.iter().copied().map(block).collect(),
            endpoint: None,
            last_handshake: None,
            trying_since: None,
            received_packets: 0,
            received_bytes: 0,
            sent_packets: 0,
            sent_bytes: 0,
            through: None,
            longest_packet: None,
        };
        let states = [state(1, &[1, 2]), state(2, &[3]), state(3, &[4])];
        let kept = [(key(1), vec![block(2), block(9)]), (key(2), Vec::new()), (key(7), Vec::new())];
        assert_eq!(lost(&states, &kept), [block(1), block(3)]);
    }
}
