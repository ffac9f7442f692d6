//! Rules that decide, and files that are refused.

use super::*;

fn person(user: &str, groups: &[&str]) -> Person {
    Person::Host {
        user: user.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        key: None,
        principals: Vec::new(),
    }
}

fn place(text: &str) -> Target {
    let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    let [remote, project, instance, instance_user] = parts.try_into().unwrap();
    Target { remote, project, instance, instance_user }
}

fn policy(text: &str) -> Policy {
    Policy::parse(Path::new("ssh-policy.toml"), text).unwrap()
}

fn may(policy: &Policy, person: &Person, action: Action, at: &str) -> bool {
    policy.decide(person, action, Some(&place(at))).allowed
}

/// Fails when: the default lets somebody do more than ssh2incus does, or less.
#[test]
fn the_default_is_the_reach_of_ssh2incus() {
    let policy = Policy::default();
    assert_eq!(policy.rules.len(), 2, "the default text is a policy");
    let at = "local/default/c1/root";
    let allowed = |person: &Person| -> Vec<&str> {
        let decide = |action: &Action| policy.decide(person, *action, Some(&place(at))).allowed;
        Action::ALL.into_iter().filter(decide).map(Action::as_str).collect()
    };
    let session = ["shell", "exec", "sftp", "forward-local", "forward-remote", "agent", "create"];
    assert_eq!(allowed(&person("root", &[])), [&session[..], &["remove", "incus-shell"]].concat());
    assert_eq!(allowed(&person("ann", &["users", "incus"])), session);
    assert_eq!(allowed(&person("ann", &["incus-admin"])), session);
    assert!(allowed(&person("ann", &["users", "incus2"])).is_empty());
    assert!(policy.decide(&person("root", &[]), Action::IncusShell, None).allowed);
    assert!(!policy.decide(&person("ann", &["incus"]), Action::IncusShell, None).allowed);
}

const RULES: &str = r#"
[[rule]]
name = "never the database's root"
instances = ["db-*"]
instance_users = ["root"]
deny = ["*"]

[[rule]]
groups = ["ops"]
projects = ["prod", "stag?"]
allow = ["shell", "exec"]

[[rule]]
name = "backup"
users = ["backup"]
keys = ["SHA256:abc"]
allow = ["sftp"]

[[rule]]
principals = ["admin"]
allow = ["*"]
deny = ["incus-shell"]
"#;

/// Fails when: a list that does not fit is passed over, or a later rule wins.
#[test]
fn the_first_rule_that_fits_decides() {
    let policy = policy(RULES);
    let ops = person("ann", &["ops"]);
    assert!(may(&policy, &ops, Action::Shell, "local/prod/c1/root"));
    assert!(may(&policy, &ops, Action::Shell, "local/stage/c1/root"));
    assert!(!may(&policy, &ops, Action::Shell, "local/staging/c1/root"));
    assert!(!may(&policy, &ops, Action::Shell, "local/default/c1/root"));
    assert!(!may(&policy, &ops, Action::Sftp, "local/prod/c1/root"));
    assert!(!may(&policy, &ops, Action::Shell, "local/prod/db-1/root"));
    assert!(may(&policy, &ops, Action::Shell, "local/prod/db-1/postgres"));
    let decision = policy.decide(&ops, Action::Exec, Some(&place("r/prod/db-1/root")));
    assert_eq!(decision.reason.to_string(), "rule `never the database's root` (line 2)");
    let decision = policy.decide(&ops, Action::Exec, Some(&place("r/prod/c1/root")));
    assert_eq!(decision.reason, Reason::Rule { name: "2".to_owned(), line: 8 });
    let decision = policy.decide(&ops, Action::Remove, Some(&place("r/prod/c1/root")));
    assert_eq!(decision, Decision { allowed: false, reason: Reason::NoRule });
}

/// Fails when: a rule for a key or a principal fits who has shown neither.
#[test]
fn keys_and_principals_must_be_proven() {
    let policy = policy(RULES);
    let backup = |key: Option<&str>| Person::Host {
        user: "backup".to_owned(),
        groups: Vec::new(),
        key: key.map(str::to_owned),
        principals: Vec::new(),
    };
    let at = "local/default/c1/root";
    assert!(may(&policy, &backup(Some("SHA256:abc")), Action::Sftp, at));
    assert!(!may(&policy, &backup(Some("SHA256:abd")), Action::Sftp, at));
    assert!(!may(&policy, &backup(None), Action::Sftp, at));
    let admin = Person::Host {
        user: "ann".to_owned(),
        groups: Vec::new(),
        key: None,
        principals: vec!["x".to_owned(), "admin".to_owned()],
    };
    assert!(may(&policy, &admin, Action::Remove, at));
    assert!(!policy.decide(&admin, Action::IncusShell, None).allowed, "deny is stronger within a rule");
    let ops = person("ann", &["ops"]);
    assert!(!policy.decide(&ops, Action::Shell, None).allowed, "no place is in no project");
}

/// Fails when: who has shown an instance's own key reaches anything else, whatever the rules say.
#[test]
fn a_user_of_an_instance_is_only_that() {
    let policy = policy("[[rule]]\nallow = [\"*\"]\n");
    let own = Person::Instance(place("local/default/c1/bob"));
    for action in Action::ALL {
        assert_eq!(
            may(&policy, &own, action, "local/default/c1/bob"),
            Action::SESSION.contains(&action),
            "{action}"
        );
        for at in ["local/default/c1/root", "local/default/c2/bob", "local/p/c1/bob", "r/default/c1/bob"] {
            assert!(!may(&policy, &own, action, at), "{action} {at}");
        }
        assert!(!policy.decide(&own, action, None).allowed);
    }
}

/// Fails when: a fault is passed over, or its line is not told.
#[test]
fn every_fault_has_its_line() {
    let cases = [
        "[[rule]]\nallow = [\"shel\"]\n",
        "[[rule]]\nallow = [\"all\"]\n",
        "[[rule]]\nusers = [\"ann\"]\n",
        "[[rule]]\nallow = []\n",
        "[[rule]]\nusers = []\nallow = [\"*\"]\n",
        "[[rule]]\nusers = [\"ann\", \"\"]\nallow = [\"*\"]\n",
        "[[rule]]\nuser = [\"ann\"]\nallow = [\"*\"]\n",
        "[[rule]]\nkeys = [\n  \"SHA256:x\",\n  \"MD5:x\",\n]\nallow = [\"*\"]\n",
        "[[rules]]\nallow = [\"*\"]\n",
        "[[rule]]\nallow = \"*\"\n",
        "[[rule]]\nallow = [\"*\"\n",
        "\n\n[[rule]]\nallow = [1]\n",
    ];
    let said: Vec<String> = cases
        .iter()
        .map(|text| Policy::parse(Path::new("ssh-policy.toml"), text).unwrap_err().to_string())
        .collect();
    assert!(said.iter().all(|line| !line.contains('\n')));
    insta::assert_snapshot!(said.join("\n"));
    assert_eq!(policy("").decide(&person("root", &[]), Action::Shell, None).reason, Reason::NoRule);
}
