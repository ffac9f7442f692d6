//! What is recorded of what somebody does.

use super::Child;
use crate::broker::grant::{Errand, Grant};
use crate::broker::open::{Order, Refusal};
use crate::broker::recordings::{self, Made};
use crate::policy::Action;
use crate::wire::What;

/// Exit status of what would have to be recorded and cannot be.
const NOT_RECORDED: u8 = 255;

impl Child {
    /// Makes the recording of what is to be opened, if there is to be one.
    pub(super) fn record(&self, grant: &Grant, order: &Order) -> Result<Option<Made>, Refusal> {
        let action = match order.what {
            What::Shell => Action::Shell,
            What::Command => Action::Exec,
            // The audit log has each file.
            What::Sftp => return Ok(None),
        };
        let records = match grant.errand {
            Some(Errand::Shell) => self.broker.judge.records_shell(grant),
            _ => self.broker.judge.records(grant, action),
        };
        if !records.has(order.terminal.is_some()) {
            return Ok(None);
        }
        let settings = &self.broker.options.options.recording;
        let refused = |why: &str| Refusal::new(NOT_RECORDED, format!("it is to be recorded, and {why}"));
        if !order.can_record {
            let why = "this connection is of a gateway before an upgrade that could not: connect anew";
            return if settings.goes_on { Ok(None) } else { Err(refused(why)) };
        }
        let dir = settings.folder(&self.broker.options.made);
        let made = recordings::make((&dir, settings), &self.session, grant, order);
        match made {
            Ok(made) => Ok(Some(made)),
            Err(error) => {
                tracing::error!(%error, dir = %dir.display(), session = %self.session, "no recording");
                // What is wrong with the host is nobody's business who logs in.
                if settings.goes_on { Ok(None) } else { Err(refused("cannot be")) }
            }
        }
    }
}
