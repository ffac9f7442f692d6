//! Log lines on standard error, with a filter that can be changed while the daemon runs.

use std::io::IsTerminal;

use portway_config::LogFilter;
use tracing::warn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes the filter of the running process.
pub(crate) struct LogControl(Handle<EnvFilter, Registry>);

/// Starts logging. A second call in one process keeps the first one's output.
pub(crate) fn start(filter: &LogFilter) -> LogControl {
    let (layer, handle) = reload::Layer::new(EnvFilter::new(filter.as_str()));
    // Already started: tests that run several daemons in one process.
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(
            fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                // A line that cannot be written, as on a full disk, is lost. To be told of it where it cannot be written
                // would end the thread: eprintln! panics.
                .log_internal_errors(false),
        )
        .try_init();
    LogControl(handle)
}

impl LogControl {
    /// Uses another filter from here on.
    pub(crate) fn set(&self, filter: &LogFilter) {
        if let Err(failure) = self.0.reload(EnvFilter::new(filter.as_str())) {
            warn!(error = %failure, "log filter not changed");
        }
    }
}
