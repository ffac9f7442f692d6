//! Checks of one stream pairing.

use anyhow::{Result, ensure};
use portway_testkit::{Behaviour, Pattern, Service, Stream, check, wait_for};

use crate::place::{Pair, SocketFile};

/// Bytes each way; no multiple of any buffer.
pub(crate) const LENGTH: u64 = 10_000_019;

/// Sends and receives at the same time; the service echoes.
pub(crate) fn each_way(pair: &Pair) -> Result<()> {
    with_service(pair, Behaviour::Echo, |_| check::echo(&dial(pair)?, LENGTH, 1))
}

/// The client ends its side first, and is answered only then.
pub(crate) fn client_ends_first(pair: &Pair) -> Result<()> {
    with_service(pair, Behaviour::AnswerAtEnd, |_| check::half_close(&dial(pair)?, LENGTH, 2))
}

/// The service ends its side first, and is sent as much only then.
pub(crate) fn service_ends_first(pair: &Pair) -> Result<()> {
    let pattern = Pattern::new(3);
    with_service(pair, Behaviour::Source { pattern, length: LENGTH }, |service| {
        let answer = Pattern::new(4).bytes(usize::try_from(LENGTH)?);
        check::half_close_by_service(&dial(pair)?, pattern, LENGTH, &answer)?;
        let record = wait_for("the service's record", || service.records().pop())?;
        ensure!(record == answer, "the service got {} other bytes after its end", record.len());
        Ok(())
    })
}

/// A client of the device.
pub(crate) fn dial(pair: &Pair) -> Result<Stream> {
    check::dial(&pair.listen.site, &pair.listen.addr)
}

/// Runs `what` while a service listens at the far end.
pub(crate) fn with_service<T>(
    pair: &Pair,
    behaviour: Behaviour,
    what: impl FnOnce(&Service) -> Result<T>,
) -> Result<T> {
    let service = Service::start(&pair.connect.site, &pair.connect.addr, behaviour)?;
    let _file = SocketFile::open_to_all(&pair.connect.addr);
    what(&service)
}
