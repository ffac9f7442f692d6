//! The stream of lifecycle events.

use crate::Result;

/// Something happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `instance-started`, `instance-renamed`, …
    pub action: String,
    /// Project.
    pub project: String,
    /// Name; after a rename the new one.
    pub name: String,
    /// The former name, of a rename.
    pub old_name: Option<String>,
}

/// An open stream of events.
#[derive(Debug)]
pub struct Events {}

impl Events {
    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// [`StreamEnded`](crate::IncusError::StreamEnded) and others; after any of them the stream is of no more use.
    pub async fn next(&mut self) -> Result<Event> {
        todo!()
    }
}
