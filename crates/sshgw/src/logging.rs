//! Log lines on standard error, in the gateway and in the processes of its connections.

use tracing_subscriber::EnvFilter;

/// Starts logging. A second call in one process keeps the first one's output.
pub(crate) fn start(filter: &str) {
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter));
    // To be told of a line that cannot be written, as on a full disk, would end the thread: eprintln! panics.
    let builder = builder.log_internal_errors(false);
    let _second = builder.with_ansi(false).with_writer(std::io::stderr).try_init();
}
