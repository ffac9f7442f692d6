//! What the policy says of commands about whole instances.

use super::Judge;
use crate::broker::grant::Grant;
use crate::policy::{Action, Decision, Policy, Reason, Record, Scope};

impl Judge {
    /// Whether somebody may do something to a whole instance, or to what belongs to a project, by the policy as it is.
    pub(in crate::broker) fn decide_whole(
        &self,
        grant: &Grant,
        action: Action,
        scope: &Scope<'_>,
    ) -> Decision {
        self.by_policy(|policy| policy.decide_whole(&grant.policy_person(), action, scope))
    }

    /// Whether somebody has the shell of Incus commands somewhere.
    pub(in crate::broker) fn has_shell(&self, grant: &Grant) -> Decision {
        self.by_policy(|policy| policy.has_shell(&grant.policy_person()))
    }

    /// Whether somebody may do something wherever it is.
    pub(in crate::broker) fn decide_everywhere(&self, grant: &Grant, action: Action) -> Decision {
        self.by_policy(|policy| policy.decide(&grant.policy_person(), action, None))
    }

    /// Whether there may be something for somebody's commands on a server, or in a project of it.
    pub(in crate::broker) fn reaches(&self, grant: &Grant, remote: &str, project: Option<&str>) -> bool {
        self.policy().is_ok_and(|policy| policy.reaches(&grant.policy_person(), remote, project))
    }

    /// What is recorded of somebody's shell of Incus commands.
    pub(in crate::broker) fn records_shell(&self, grant: &Grant) -> Record {
        self.policy().map_or(Record::All, |policy| policy.records_shell(&grant.policy_person()))
    }

    pub(super) fn by_policy(&self, decide: impl FnOnce(&Policy) -> Decision) -> Decision {
        match self.policy() {
            Ok(policy) => decide(&policy),
            Err(error) => {
                tracing::error!(error, "the policy cannot be used, so nobody may do anything");
                Decision { allowed: false, reason: Reason::NoRule }
            }
        }
    }
}
