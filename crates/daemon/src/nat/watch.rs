//! Hears of changes that others make to the table.

use std::os::fd::AsFd;
use std::time::Duration;

use portway_nat::{TableName, Watch, WatchError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::warn;

use super::table::Order;
use crate::state::with_sources;
use crate::watched::watched;

/// Pause before listening begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Has the table's keeper look whenever somebody else has changed the table; `port_id` is its own number. Where listening
/// fails it begins anew.
///
/// # Errors
/// When there is nothing to listen with.
pub(super) fn start(
    runtime: &Handle,
    table: TableName,
    port_id: u32,
    orders: mpsc::Sender<Order>,
) -> Result<(), WatchError> {
    let open = move || -> Result<Watch, WatchError> {
        let mut watch = Watch::open(table.clone())?;
        watch.ignore(port_id);
        Ok(watch)
    };
    let mut watch = Some(open()?);
    runtime.spawn(async move {
        while !orders.is_closed() {
            if let Some(watch) = watch.take() {
                listen(watch, &orders).await;
            }
            tokio::time::sleep(PAUSE).await;
            watch = open().ok();
            // What happened meanwhile was not heard.
            if watch.is_some() && orders.send(Order::Look).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Listens until it fails, or nobody wants to hear.
async fn listen(mut watch: Watch, orders: &mpsc::Sender<Order>) {
    let copy = watch.as_fd().try_clone_to_owned().and_then(watched);
    let readable = match copy {
        Ok(readable) => readable,
        Err(problem) => return warn!(error = %problem, "changes of the table are not heard"),
    };
    loop {
        match readable.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(problem) => return warn!(error = %problem, "changes of the table are not heard any more"),
        }
        let heard = watch.poll().map(|event| event.is_some()).unwrap_or_else(|problem| {
            warn!(error = %with_sources(&problem), "a change of the ruleset cannot be read");
            true
        });
        if heard && orders.send(Order::Look).await.is_err() {
            return;
        }
    }
}
