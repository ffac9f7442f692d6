//! What passes with time, and how often it is tried again.

use std::time::Duration;

use portway_incus::{Client, IncusError, Operation, Refusal};

/// Between two tries of a change that another one is in the way of.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// Tries of it: another change of one instance takes seconds, a stop as long as it is given.
const TRIES: u32 = 80;

/// Tries of a start that comes before its network: five seconds, of which the server needs a tenth.
pub(super) const EARLY: u32 = 20;

/// Tries of a change that somebody else's change has overtaken.
const OVERTAKEN: u32 = 10;

/// Looks at what has come since it was planned, until it has keys or is gone: a server with much to do takes seconds for it.
pub(super) const SETTLING: u32 = 40;

/// Whether a failure is a certain refusal.
pub(super) fn refused(error: &IncusError, refusal: Refusal) -> bool {
    error.refusal() == Some(refusal)
}

/// How often in all a request is worth making that fails so; once where it does not pass.
pub(super) fn worth(error: &IncusError) -> u32 {
    if refused(error, Refusal::Busy) || is_passing(error) {
        TRIES
    } else if is_early(error) || is_occupied(error) {
        EARLY
    } else if is_slow(error) || error.is_outdated() || matches!(error, IncusError::Forgotten { .. }) {
        // What a server has forgotten that was started anew is asked for again: all that was done is no failure.
        OVERTAKEN
    } else {
        1
    }
}

/// Whether a network of anybody's is just going: at a change of an instance's name the server looks into the folders of all
/// that it lists. Its words in Incus 6.0 and 7.0.
fn is_passing(error: &IncusError) -> bool {
    matches!(error, IncusError::Operation { message, .. } | IncusError::Status { message, .. }
        if message.contains("dnsmasq.hosts: no such file or directory"))
}

/// Whether a network that is listed has no bridge yet: whoever makes it was killed, and the server is still at it. Its
/// words in Incus 6.0 and 7.0.
fn is_early(error: &IncusError) -> bool {
    matches!(error, IncusError::Operation { message, .. } | IncusError::Status { message, .. }
        if message.contains("Parent device") && message.contains("doesn't exist"))
}

/// Whether a network's name service cannot have its address. The words of dnsmasq, in those of Incus 6.0 and 7.0.
pub(super) fn is_occupied(error: &IncusError) -> bool {
    matches!(error, IncusError::Operation { message, .. } | IncusError::Status { message, .. }
        if message.contains("exited prematurely") && message.contains("Address already in use"))
}

/// Whether the server has only run out of time, as one that is short of processors does in a few seconds. Its own work
/// goes on.
fn is_slow(error: &IncusError) -> bool {
    matches!(error, IncusError::Operation { message, .. } if message.contains("context deadline exceeded"))
}

/// Makes a request until it succeeds or is no longer `worth` it.
pub(super) async fn patiently<T>(
    worth: impl Fn(&IncusError) -> u32,
    ask: impl AsyncFn() -> Result<T, IncusError>,
) -> Result<T, IncusError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match ask().await {
            Err(error) if tries < worth(&error) => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// Waits for the end of a change, if it has begun.
pub(super) async fn to_its_end(
    client: &Client,
    begun: Result<Operation, IncusError>,
) -> Result<(), IncusError> {
    client.finish(&begun?, None, |_| ()).await.map(|_| ())
}
