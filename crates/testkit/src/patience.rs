//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take: what is waited for takes milliseconds, a loaded machine seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Asks again and again until there is an answer.
///
/// # Errors
/// When there is none after 20 s; `what` says what was waited for.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if begin.elapsed() > LIMIT {
            bail!("waited in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
