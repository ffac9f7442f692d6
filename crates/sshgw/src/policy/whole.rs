//! What is decided about an instance as a whole, and about what belongs to a project: the commands of the Incus shell.
//!
//! A rule that names users inside instances is about them, and lets nobody do anything to a whole instance; what it denies is
//! denied all the same. What belongs to a project and to no instance is up to rules that name no instance.

use super::{Action, Decision, Person, Policy, Reason, Record, Rule, any};

/// A whole instance, or, without its name, a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'s> {
    /// Server.
    pub remote: &'s str,
    /// Project.
    pub project: &'s str,
    /// Instance; `None`: what belongs to the project itself.
    pub instance: Option<&'s str>,
}

impl Rule {
    fn is_within(&self, remote: &str, project: Option<&str>) -> bool {
        let fits = |list: &Option<Vec<String>>, text: &str| any(list.as_deref(), &[text.to_owned()]);
        fits(&self.remotes, remote) && project.is_none_or(|project| fits(&self.projects, project))
    }

    fn fits_scope(&self, scope: &Scope<'_>) -> bool {
        let is_instance = match scope.instance {
            Some(name) => any(self.instances.as_deref(), &[name.to_owned()]),
            None => self.instances.is_none(),
        };
        is_instance && self.is_within(scope.remote, Some(scope.project))
    }

    /// Whether it is about a part of what it names.
    fn is_of_users(&self) -> bool {
        self.instance_users.as_ref().is_some_and(|list| !list.iter().any(|user| user == "*"))
    }

    fn names_places(&self) -> bool {
        [&self.remotes, &self.projects, &self.instances, &self.instance_users]
            .iter()
            .any(|list| list.is_some())
    }

    /// `Some` with what it says, if it says something about an action on a whole.
    fn says(&self, action: Action) -> Option<bool> {
        if self.deny.contains(&action) {
            return Some(false);
        }
        (self.allow.contains(&action) && !self.is_of_users()).then_some(true)
    }

    fn reason(&self) -> Reason {
        Reason::Rule { name: self.name.clone(), line: self.line }
    }
}

const NO_RULE: Decision = Decision { allowed: false, reason: Reason::NoRule };

impl Policy {
    /// Whether a person may do something to a whole instance, or to what belongs to a project.
    #[must_use]
    pub fn decide_whole(&self, person: &Person, action: Action, scope: &Scope<'_>) -> Decision {
        if matches!(person, Person::Instance(_)) {
            return Decision { allowed: false, reason: Reason::OtherThanOwn };
        }
        let fitting = self.rules.iter().filter(|rule| rule.fits_person(person) && rule.fits_scope(scope));
        let said = fitting.filter_map(|rule| Some((rule, rule.says(action)?))).next();
        said.map_or(NO_RULE, |(rule, allowed)| Decision { allowed, reason: rule.reason() })
    }

    /// Whether a person has the shell of Incus commands at all: somewhere at least.
    #[must_use]
    pub fn has_shell(&self, person: &Person) -> Decision {
        if matches!(person, Person::Instance(_)) {
            return Decision { allowed: false, reason: Reason::OtherThanOwn };
        }
        self.somewhere(person, |_| true)
    }

    /// Whether there may be something for a person's commands on a server, or in a project of it.
    #[must_use]
    pub fn reaches(&self, person: &Person, remote: &str, project: Option<&str>) -> bool {
        self.somewhere(person, |rule| rule.is_within(remote, project)).allowed
    }

    fn somewhere(&self, person: &Person, is_meant: impl Fn(&Rule) -> bool) -> Decision {
        for rule in self.rules.iter().filter(|rule| rule.fits_person(person) && is_meant(rule)) {
            match rule.says(Action::IncusShell) {
                Some(true) => return Decision { allowed: true, reason: rule.reason() },
                // Of a place only, and there may be another.
                Some(false) if rule.names_places() => {}
                Some(false) => return Decision { allowed: false, reason: rule.reason() },
                None => {}
            }
        }
        NO_RULE
    }

    /// What is recorded of a person's shell of Incus commands: as much as of those of any place.
    #[must_use]
    pub fn records_shell(&self, person: &Person) -> Record {
        let his = self.rules.iter().filter(|rule| rule.fits_person(person));
        let his = his.filter(|rule| rule.says(Action::IncusShell) == Some(true));
        his.map(|rule| rule.record).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::Target;

    fn policy(text: &str) -> Policy {
        Policy::parse(Path::new("p"), text).expect("a policy")
    }

    fn ann() -> Person {
        Person::Host {
            user: "ann".to_owned(),
            groups: vec!["ops".to_owned()],
            key: None,
            principals: Vec::new(),
        }
    }

    fn at<'s>(project: &'s str, instance: Option<&'s str>) -> Scope<'s> {
        Scope { remote: "local", project, instance }
    }

    /// Fails when somebody with a project, or with some instances, gets at another.
    #[test]
    fn a_fence_holds() {
        let policy = policy(
            r#"
[[rule]]
projects = ["dev"]
instances = ["db-*"]
deny = ["remove"]
[[rule]]
users = ["ann"]
projects = ["dev"]
allow = ["*"]
[[rule]]
users = ["ann"]
projects = ["prod"]
instances = ["web-?"]
allow = ["incus-shell"]
[[rule]]
users = ["ann"]
projects = ["stage"]
instance_users = ["ann"]
allow = ["*"]
"#,
        );
        let may =
            |action, project, instance| policy.decide_whole(&ann(), action, &at(project, instance)).allowed;
        let shell = Action::IncusShell;
        assert!(
            may(shell, "dev", Some("c1"))
                && may(shell, "dev", None)
                && may(Action::Remove, "dev", Some("c1"))
        );
        assert!(!may(Action::Remove, "dev", Some("db-1")) && may(shell, "dev", Some("db-1")));
        assert!(may(shell, "prod", Some("web-1")) && !may(shell, "prod", Some("web-11")));
        assert!(!may(shell, "prod", None) && !may(Action::Remove, "prod", Some("web-1")));
        assert!(!may(shell, "default", Some("c1")) && !may(shell, "default", None));
        // A user inside is not the instance.
        assert!(!may(shell, "stage", Some("c1")) && !policy.reaches(&ann(), "local", Some("stage")));
        assert!(policy.has_shell(&ann()).allowed);
        let reaches = |project| policy.reaches(&ann(), "local", Some(project));
        assert!(reaches("dev") && reaches("prod") && !reaches("default"));
        let inside = Person::Instance(Target {
            remote: "local".to_owned(),
            project: "dev".to_owned(),
            instance: "c1".to_owned(),
            instance_user: "root".to_owned(),
        });
        assert!(!policy.has_shell(&inside).allowed);
        assert!(!policy.decide_whole(&inside, shell, &at("dev", Some("c1"))).allowed);
        // Nothing that needs no place comes of it.
        assert!(!policy.decide(&ann(), shell, None).allowed);
    }

    /// Fails when what is denied is had all the same, or a denial of one place is one of all.
    #[test]
    fn what_is_denied_is_denied() {
        let shell = Action::IncusShell;
        let all = policy("[[rule]]\ndeny = [\"incus-shell\"]\n[[rule]]\nallow = [\"*\"]\n");
        assert!(!all.has_shell(&ann()).allowed && !all.reaches(&ann(), "local", None));
        let one = policy(
            "[[rule]]\nprojects = [\"prod\"]\ndeny = [\"incus-shell\"]\n[[rule]]\nallow = [\"*\"]\nrecord = \"all\"\n",
        );
        assert!(one.has_shell(&ann()).allowed);
        assert!(!one.decide_whole(&ann(), shell, &at("prod", Some("c1"))).allowed);
        assert!(one.decide_whole(&ann(), shell, &at("dev", Some("c1"))).allowed);
        assert_eq!(one.records_shell(&ann()), Record::All);
        let of_user = policy(
            "[[rule]]\ninstance_users = [\"root\"]\ndeny = [\"incus-shell\"]\n[[rule]]\nallow = [\"*\"]\n",
        );
        assert!(!of_user.decide_whole(&ann(), shell, &at("dev", Some("c1"))).allowed);
        assert!(!policy("").has_shell(&ann()).allowed);
        assert!(!Policy::default().has_shell(&ann()).allowed);
    }
}
