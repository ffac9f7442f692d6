//! What the relay worker is given: ports, and where their connections go when there is nothing to choose.

use std::io;
use std::os::fd::AsFd;

use portway_model::{DeviceSpec, RuleListen};
use portway_relay::wire::{Slot, ToWorker, WireDevice};

use super::serve::Server;
use super::{Notice, dial, flows};

/// Whether the worker has a port already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    /// It is given its listeners.
    Fresh,
    /// It keeps those it has, and what is connected.
    Same,
}

impl<R: FnMut(Notice)> Server<R> {
    /// Gives the worker every port.
    pub(super) async fn put_all(&mut self) -> io::Result<()> {
        self.shared.begin_accounts();
        let slots: Vec<Slot> = self.shared.table().served().map(|served| served.slot).collect();
        for slot in slots {
            self.put(slot, Ports::Fresh).await?;
        }
        Ok(())
    }

    /// Gives the worker one port; the number of the request, if there is one.
    pub(super) async fn put(&mut self, slot: Slot, ports: Ports) -> io::Result<Option<u64>> {
        let Some((listen, listeners)) = self.shared.table().port(slot) else { return Ok(None) };
        if flows::are_carried_here(&listen, &listeners) {
            return Ok(None);
        }
        let keep_listeners = ports == Ports::Same;
        let seq = self.waits.next();
        let device = Box::new(self.device(slot, &listen).map_err(io::Error::other)?);
        let listen_count = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
        let message = ToWorker::Put { seq, slot, device, listen_count, keep_listeners, hold: None };
        self.link.say(&message, &[]).await?;
        if !listeners.is_empty() && !keep_listeners {
            let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
            self.link.say(&ToWorker::Listeners { slot, first: 0 }, &fds).await?;
        }
        Ok(Some(seq))
    }

    /// A port as the worker knows it: a device whose upstream it asks for, unless there is nothing to choose.
    fn device(&self, slot: Slot, listen: &RuleListen) -> Result<WireDevice, String> {
        let host_only = !self.shared.engine.gives_sockets();
        let (header, direct) = {
            let table = self.shared.table();
            (table.header(listen), table.direct(slot, host_only))
        };
        let protocol = listen.transport.as_str();
        let host = match listen.address {
            None => "[::]".to_owned(),
            Some(std::net::IpAddr::V4(ip)) => ip.to_string(),
            Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        // Where it is called for, the protocol alone counts.
        let connect = direct.map_or_else(|| format!("127.0.0.1:{}", listen.port), |(to, _)| to.to_string());
        let keys = [
            ("listen", format!("{protocol}:{host}:{}", listen.port)),
            ("connect", format!("{protocol}:{connect}")),
            ("proxy_protocol", header.to_string()),
            ("connect.timeout", format!("{}s", dial::PATIENCE.as_secs() + 5)),
        ];
        let spec = DeviceSpec::from_keys(keys).map_err(|error| error.to_string())?;
        Ok(WireDevice {
            key: format!("{} {listen}", listen.direction),
            spec,
            base: None,
            base_name: None,
            replies: None,
            brokered: true,
            direct: direct.map(|(_, direct)| direct),
            note: String::new(),
        })
    }
}
