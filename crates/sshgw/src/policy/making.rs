//! `[create]` of the policy: how many instances somebody may have made, and how long they stay.

use std::time::Duration;

use portway_model::parse_duration;
use serde::Deserialize;
use toml::Spanned;

use super::read::Fault;

/// Most instances of one person that can be allowed, and the longest life.
const INSTANCES_MAX: i64 = 100_000;
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// What holds for instances that logins make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Making {
    /// Most instances of one person at a time, on one server; `None` is as many as there is room for.
    pub instances_max: Option<usize>,
    /// How long one lives; `None` is for ever.
    pub ttl: Option<Duration>,
    /// Whether one goes with the last who was in it.
    pub delete_on_disconnect: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMaking {
    max_instances: Option<Spanned<i64>>,
    ttl: Option<Spanned<String>>,
    delete_on_disconnect: Option<bool>,
}

pub(super) fn checked(raw: RawMaking) -> Result<Making, Fault> {
    let instances_max = raw.max_instances.map(|count| {
        let at = count.span().start;
        let most = || Fault { at, message: format!("a number from 0 to {INSTANCES_MAX}") };
        let count = Some(count.into_inner()).filter(|count| *count <= INSTANCES_MAX);
        count.and_then(|count| usize::try_from(count).ok()).ok_or_else(most)
    });
    let ttl = raw.ttl.map(|ttl| {
        let at = ttl.span().start;
        let wrong =
            || Fault { at, message: "a time like \"8h\" or \"90m\", from a second to ten years".to_owned() };
        parse_duration(ttl.get_ref(), TTL_MIN, TTL_MAX).map_err(|_| wrong())
    });
    Ok(Making {
        instances_max: instances_max.transpose()?,
        ttl: ttl.transpose()?,
        delete_on_disconnect: raw.delete_on_disconnect.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Policy;
    use super::*;

    /// Fails when what is written is not what holds, or what means nothing is taken for something.
    #[test]
    fn what_holds_for_new_instances_is_read() {
        let of = |text: &str| {
            let policy = Policy::parse(Path::new("p"), text);
            policy.map(|policy| policy.making().clone()).map_err(|error| error.to_string())
        };
        assert_eq!(of(""), Ok(Making::default()));
        let all = of("[create]\nmax_instances = 3\nttl = \"90m\"\ndelete_on_disconnect = true\n");
        let ttl = Some(Duration::from_secs(5400));
        assert_eq!(all, Ok(Making { instances_max: Some(3), ttl, delete_on_disconnect: true }));
        for (text, why) in [
            ("[create]\nmax_instances = -1\n", "p:2:17: a number from 0"),
            ("[create]\nttl = \"0s\"\n", "p:2:7: a time like"),
            ("[create]\nttl = \"soon\"\n", "p:2:7: a time like"),
            ("[create]\nnames = 1\n", "p:2:1: unknown field"),
        ] {
            assert!(of(text).is_err_and(|error| error.starts_with(why)), "{text}: {:?}", of(text));
        }
    }

    /// Fails when what the page shows is not what can be written.
    #[test]
    fn the_page_shows_what_can_be_written() {
        let page = include_str!("../../../../docs/ssh-gateway.md");
        let (_, example) = page.split_once("```toml ssh-policy\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let policy = Policy::parse(Path::new("page"), example).expect("a policy");
        assert_eq!(policy.making().ttl, Some(Duration::from_secs(8 * 3600)));
    }
}
