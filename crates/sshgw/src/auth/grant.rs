//! What a key or certificate allows the person who has proven it: part of the decision, never more than the policy.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Circumstances of a login that rules of keys speak of.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// Where the client is.
    pub client: IpAddr,
    /// Wall clock, seconds since 1970: expiry is said in dates.
    pub now_seconds: u64,
    /// How far the host's zone is ahead of UTC, when that is known.
    pub local_offset_seconds: Option<i32>,
}

/// Where a forward may lead, or listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permitted {
    /// Host as it was written, lower case; `None` where only a port was.
    pub host: Option<String>,
    /// Port; `None` is any.
    pub port: Option<u16>,
}

impl Permitted {
    /// Whether this is the place, as the client names it. Names are compared as text and never looked up.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let fits = self.host.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host));
        fits && self.port.is_none_or(|wanted| wanted == port)
    }
}

/// What a key allows. The policy decides besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Runs instead of what the client asks for, which is told in `SSH_ORIGINAL_COMMAND`.
    pub command: Option<String>,
    /// Terminals.
    pub pty: bool,
    /// Forwards of tcp and unix, either way.
    pub port_forwarding: bool,
    /// Forwarding of the client's agent.
    pub agent_forwarding: bool,
    /// Forwarding of X11.
    pub x11_forwarding: bool,
    /// `~/.ssh/rc`.
    pub user_rc: bool,
    /// Where `-L` may lead; `None` is anywhere.
    pub permit_open: Option<Vec<Permitted>>,
    /// Where `-R` may listen; `None` is anywhere.
    pub permit_listen: Option<Vec<Permitted>>,
    /// Variables, for gateways that take them from keys.
    pub environment: Vec<(String, String)>,
}

impl Default for Grant {
    /// Everything, as a key without options.
    fn default() -> Self {
        Self {
            command: None,
            pty: true,
            port_forwarding: true,
            agent_forwarding: true,
            x11_forwarding: true,
            user_rc: true,
            permit_open: None,
            permit_listen: None,
            environment: Vec::new(),
        }
    }
}

impl Grant {
    /// Nothing but a command or shell without a terminal.
    #[must_use]
    pub fn restricted() -> Self {
        Self {
            pty: false,
            port_forwarding: false,
            agent_forwarding: false,
            x11_forwarding: false,
            user_rc: false,
            ..Self::default()
        }
    }

    /// What both allow. `None` when both force a command, and not the same one.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        let command = match (self.command, other.command) {
            (Some(one), Some(another)) if one != another => return None,
            (one, another) => one.or(another),
        };
        let both = |one: Option<Vec<Permitted>>, another: Option<Vec<Permitted>>| match (one, another) {
            (Some(one), Some(another)) => {
                Some(one.into_iter().filter(|place| another.contains(place)).collect())
            }
            (one, another) => one.or(another),
        };
        Some(Self {
            command,
            pty: self.pty && other.pty,
            port_forwarding: self.port_forwarding && other.port_forwarding,
            agent_forwarding: self.agent_forwarding && other.agent_forwarding,
            x11_forwarding: self.x11_forwarding && other.x11_forwarding,
            user_rc: self.user_rc && other.user_rc,
            permit_open: both(self.permit_open, other.permit_open),
            permit_listen: both(self.permit_listen, other.permit_listen),
            environment: self.environment.into_iter().chain(other.environment).collect(),
        })
    }

    /// Whether `-L` may lead to that place.
    #[must_use]
    pub fn may_open(&self, host: &str, port: u16) -> bool {
        self.port_forwarding && allowed(self.permit_open.as_deref(), host, port)
    }

    /// Whether `-R` may listen at that place.
    #[must_use]
    pub fn may_listen(&self, host: &str, port: u16) -> bool {
        self.port_forwarding && allowed(self.permit_listen.as_deref(), host, port)
    }
}

fn allowed(list: Option<&[Permitted]>, host: &str, port: u16) -> bool {
    list.is_none_or(|places| places.iter().any(|place| place.allows(host, port)))
}
