//! From the text of a policy to checked rules.

use serde::Deserialize;
use toml::Spanned;

use super::making::{self, RawMaking};
use super::{Action, Policy, Record, Rule};

/// Most rules.
const RULES_MAX: usize = 4096;

/// A fault at a byte of the text.
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
    create: Option<RawMaking>,
}

type Words = Option<Spanned<Vec<Spanned<String>>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Option<String>,
    users: Words,
    groups: Words,
    keys: Words,
    principals: Words,
    remotes: Words,
    projects: Words,
    instances: Words,
    instance_users: Words,
    allow: Words,
    deny: Words,
    record: Option<Spanned<String>>,
}

/// Reads and checks a policy.
pub(super) fn policy(text: &str) -> Result<Policy, Fault> {
    let raw: RawPolicy = toml::from_str(text).map_err(|error| Fault {
        at: error.span().map_or(0, |span| span.start),
        message: error.message().replace('\n', ", "),
    })?;
    if let Some(rule) = raw.rule.get(RULES_MAX) {
        return Err(Fault { at: rule.span().start, message: format!("more than {RULES_MAX} rules") });
    }
    let rules = raw.rule.into_iter().enumerate().map(|(index, rule)| {
        let at = rule.span().start;
        let line = text.get(..at).map_or(0, |before| before.matches('\n').count()) + 1;
        checked(rule.into_inner(), index + 1, line, at)
    });
    let making = raw.create.map(making::checked).transpose()?.unwrap_or_default();
    Ok(Policy { rules: rules.collect::<Result<_, _>>()?, making })
}

fn checked(raw: RawRule, number: usize, line: usize, at: usize) -> Result<Rule, Fault> {
    let allow = actions(raw.allow)?;
    let deny = actions(raw.deny)?;
    if allow.is_empty() && deny.is_empty() {
        return Err(Fault { at, message: "a rule allows or denies something".to_owned() });
    }
    let record = raw.record.map(record).transpose()?.unwrap_or_default();
    let keys = raw.keys.map(|keys| patterns(keys, Some("SHA256:"))).transpose()?;
    let list = |words: Words| words.map(|words| patterns(words, None)).transpose();
    Ok(Rule {
        name: raw.name.unwrap_or_else(|| number.to_string()),
        line,
        users: list(raw.users)?,
        groups: list(raw.groups)?,
        keys,
        principals: list(raw.principals)?,
        remotes: list(raw.remotes)?,
        projects: list(raw.projects)?,
        instances: list(raw.instances)?,
        instance_users: list(raw.instance_users)?,
        allow,
        deny,
        record,
    })
}

/// A list that is there names something: an empty one would never fit, which nobody means.
fn patterns(words: Spanned<Vec<Spanned<String>>>, prefix: Option<&str>) -> Result<Vec<String>, Fault> {
    let at = words.span().start;
    let words = words.into_inner();
    if words.is_empty() {
        return Err(Fault { at, message: "the list is empty, leave it out to mean all".to_owned() });
    }
    let check = |word: Spanned<String>| {
        let at = word.span().start;
        let word = word.into_inner();
        match prefix {
            _ if word.is_empty() => Err(Fault { at, message: "an empty name fits nothing".to_owned() }),
            Some(prefix) if !word.starts_with(prefix) => {
                Err(Fault { at, message: format!("a key is written as {prefix}..., see `ssh-keygen -l`") })
            }
            _ => Ok(word),
        }
    };
    words.into_iter().map(check).collect()
}

fn record(word: Spanned<String>) -> Result<Record, Fault> {
    let at = word.span().start;
    let word = word.into_inner();
    Record::ALL.into_iter().find(|record| record.as_str() == word).ok_or_else(|| {
        let known = Record::ALL.map(Record::as_str).join(", ");
        Fault { at, message: format!("record is one of {known}") }
    })
}

fn actions(words: Words) -> Result<Vec<Action>, Fault> {
    let Some(words) = words else { return Ok(Vec::new()) };
    let mut actions = Vec::new();
    for word in words.into_inner() {
        let at = word.span().start;
        let word = word.into_inner();
        if word == "*" {
            actions.extend(Action::ALL);
            continue;
        }
        let Some(action) = Action::ALL.into_iter().find(|action| action.as_str() == word) else {
            let known = Action::ALL.iter().map(|action| action.as_str());
            let near = portway_model::nearest(&word, known);
            let near = near.map(|near| format!(", is it {near}?")).unwrap_or_default();
            let word: String = word.chars().take(32).flat_map(char::escape_default).collect();
            return Err(Fault { at, message: format!("unknown action {word}{near}") });
        };
        actions.push(action);
    }
    Ok(actions)
}
