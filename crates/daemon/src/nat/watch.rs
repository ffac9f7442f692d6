//! Hears of changes that others make to the table.

use std::os::fd::AsFd;

use portway_nat::{TableName, Watch, WatchError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::warn;

use super::table::Order;
use crate::state::with_sources;
use crate::watched::watched;

/// Has the table's keeper look whenever somebody else has changed the table; `port_id` is its own number.
///
/// # Errors
/// When there is nothing to listen with.
pub(super) fn start(
    runtime: &Handle,
    table: TableName,
    port_id: u32,
    orders: mpsc::Sender<Order>,
) -> Result<(), WatchError> {
    let mut watch = Watch::open(table)?;
    watch.ignore(port_id);
    runtime.spawn(async move {
        let copy = watch.as_fd().try_clone_to_owned().and_then(watched);
        let readable = match copy {
            Ok(readable) => readable,
            Err(problem) => return warn!(error = %problem, "changes of the table are not heard"),
        };
        loop {
            let Ok(mut ready) = readable.readable().await else { return };
            ready.clear_ready();
            let heard = watch.poll().map(|event| event.is_some()).unwrap_or_else(|problem| {
                warn!(error = %with_sources(&problem), "a change of the ruleset cannot be read");
                true
            });
            if heard && orders.send(Order::Look).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
