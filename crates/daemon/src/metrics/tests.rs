//! Pages against a strict reader of the text format.

use std::collections::{BTreeMap, BTreeSet};

use portway_control::api;

use super::*;

/// A family as read: its kind, and its samples by name and labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: BTreeMap<String, f64>,
}

/// Reads a page as strictly as the format is written down; what is not allowed is an error.
fn read(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut present) = (BTreeSet::new(), String::new());
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or(format!("no help: {line}"))?;
            if !helped.insert(name.to_owned()) || help.is_empty() {
                return Err(format!("help twice, or none: {line}"));
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or(format!("no type: {line}"))?;
            let known = ["counter", "gauge", "histogram", "summary"].contains(&kind);
            if !known || !helped.contains(name) || families.contains_key(name) {
                return Err(format!("type twice, unknown or without help: {line}"));
            }
            let counts = kind == "counter";
            if counts != name.ends_with("_total") {
                return Err(format!("a counter, and only a counter, ends in _total: {line}"));
            }
            families.insert(name.to_owned(), Family { kind: kind.to_owned(), samples: BTreeMap::new() });
            present = name.to_owned();
        } else {
            sample(line, families.get_mut(&present).ok_or(format!("sample of nothing: {line}"))?, &present)?;
        }
    }
    families
        .values()
        .try_for_each(|family| if family.kind == "histogram" { histogram(family) } else { Ok(()) })?;
    Ok(families)
}

fn sample(line: &str, family: &mut Family, name: &str) -> Result<(), String> {
    let end = line.find(['{', ' ']).ok_or(format!("no value: {line}"))?;
    let (own, rest) = line.split_at(end);
    let suffixes: &[&str] = match family.kind.as_str() {
        "histogram" => &["_bucket", "_sum", "_count"],
        "summary" => &["_sum", "_count"],
        _ => &[""],
    };
    let legal = |text: &str, colon: bool| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
            && text.chars().next().is_some_and(|c| !c.is_ascii_digit())
    };
    if !legal(own, true) || !suffixes.iter().any(|suffix| own == format!("{name}{suffix}")) {
        return Err(format!("name outside its family: {line}"));
    }
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => label_pairs(rest).ok_or(format!("labels: {line}"))?,
        None => (Vec::new(), rest),
    };
    let names: BTreeSet<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
    if names.len() != labels.len() || !names.iter().all(|name| legal(name, false)) {
        return Err(format!("label twice or with a bad name: {line}"));
    }
    let value: f64 =
        value.strip_prefix(' ').and_then(|value| value.parse().ok()).ok_or(format!("value: {line}"))?;
    if value < 0.0 && family.kind != "gauge" {
        return Err(format!("below zero: {line}"));
    }
    match family.samples.insert(format!("{own}{labels:?}"), value) {
        None => Ok(()),
        Some(_) => Err(format!("series twice: {line}")),
    }
}

/// Pairs up to the closing brace, with escapes undone, and what is behind it.
fn label_pairs(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut pairs = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                (_, c) => value.push(c),
            }
        };
        pairs.push((name.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Some((pairs, rest.strip_prefix('}')?)),
        }
    }
}

/// Buckets never fall, and the last is the count.
fn histogram(family: &Family) -> Result<(), String> {
    let counts = family.samples.iter().filter(|(name, _)| name.contains("_count"));
    for (name, count) in counts {
        let of = name.split_once('[').unwrap_or_default().1.trim_end_matches(']');
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (series, value) in family.samples.iter().filter(|(series, _)| series.contains("_bucket[")) {
            let (labels, bound) = series.split_once("(\"le\", \"").ok_or("a bucket without a bound")?;
            if labels.split_once('[').is_some_and(|(_, labels)| labels.trim_end_matches(", ") == of) {
                let bound = bound.trim_end_matches("\")]").replace("+Inf", "inf");
                buckets.push((bound.parse().map_err(|_| format!("bound {bound}"))?, *value));
            }
        }
        buckets.sort_by(|one, two| one.0.total_cmp(&two.0));
        let rises = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        if !rises || buckets.last() != Some(&(f64::INFINITY, *count)) {
            return Err(format!("buckets of {name}: {buckets:?}"));
        }
    }
    Ok(())
}

fn device(number: u64) -> api::Device {
    let text = format!(
        r#"{{"instance":"netns:n{number}","name":"web","listen":"tcp:127.0.0.1:1","connect":"tcp:127.0.0.1:2",
        "bind":"host","state":"active","mode":"relay","mode_reason":null,"connections_now":1,
        "connections_total":{number},"bytes_in":5,"bytes_out":7,"last_error":null,"since":"","reason":null,"keys":{{}},
        "instance_uuid":null,"dials_failed":3,"resets":2,"dropped":0,"evicted":0,"over_rate":4,"worker_pid":null,
        "failures":{{"refused":2,"timed_out":1,"reset":1}},
        "dial_time":{{"count":4,"micros":1500250,"buckets":[1,2,0,0,0,0,0,0,1]}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn value(page: &BTreeMap<String, Family>, family: &str, part: &str) -> Option<f64> {
    let samples = &page.get(family)?.samples;
    samples.iter().find(|(series, _)| series.contains(part)).map(|(_, value)| *value)
}

#[test]
fn a_page_is_read_by_a_strict_reader() {
    let page = read(&render(&[device(1), device(2)])).unwrap();
    let errors = "portway_device_errors_total";
    let of = |kind: &str| {
        value(&page, errors, &format!("\"netns:n2\"), (\"device\", \"web\"), (\"kind\", \"{kind}\")"))
    };
    assert_eq!((of("refused"), of("timed_out"), of("limits")), (Some(2.0), Some(1.0), Some(4.0)));
    assert_eq!(of("reset"), Some(3.0), "before a connection was open, and after");
    assert_eq!((of("denied"), of("absent")), (None, None), "what has not happened is left out");
    let times = "portway_device_dial_seconds";
    let within = |bound: &str| {
        value(
            &page,
            times,
            &format!("_bucket[(\"instance\", \"netns:n1\"), (\"device\", \"web\"), (\"le\", \"{bound}\")"),
        )
    };
    assert_eq!((within("0.00025"), within("0.001"), within("4.096")), (Some(1.0), Some(3.0), Some(3.0)));
    assert_eq!(within("+Inf"), Some(4.0));
    assert_eq!(value(&page, times, "_sum"), Some(1.50025));
}

/// Fails when: the reader takes what the format forbids, so that the tests above show nothing.
#[test]
fn the_reader_is_strict() {
    let head = "# HELP a_total b\n# TYPE a_total counter\n";
    assert!(read(&format!("{head}a_total{{x=\"1\"}} 1\na_total{{x=\"2\"}} 1\n")).is_ok());
    for bad in [
        "a_total 1\na_total 2\n",
        "a_total{x=\"1\",x=\"2\"} 1\n",
        "a_total{x=\"1} 1\n",
        "a_total{x=\"\\q\"} 1\n",
        "b_total 1\n",
        "a_total one\n",
        "a_total -1\n",
        "a_total 1",
        "# HELP a_total again\n",
        "# HELP c x\n# TYPE c counter\n",
        "# HELP d x\n# TYPE d histogram\nd_bucket{le=\"1\"} 2\nd_bucket{le=\"+Inf\"} 1\nd_count 1\nd_sum 1\n",
    ] {
        assert!(read(&format!("{head}{bad}")).is_err(), "{bad}");
    }
}

#[test]
fn what_the_daemon_counts_of_itself_is_a_page_too() {
    let servers = [("incus".to_owned(), true), ("lxd".to_owned(), false)];
    let before = read(&own(7, &servers, &[device(1)])).unwrap();
    assert_eq!(value(&before, "portway_nat_repairs_total", "[]"), Some(7.0));
    assert_eq!(value(&before, "portway_drift_total", "nat_table"), Some(7.0));
    assert_eq!(value(&before, "portway_server_up", "lxd"), Some(0.0));
    assert_eq!(value(&before, "portway_limit_hits_total", "limits.rate"), Some(4.0));
    crate::tally::reconciled(std::time::Duration::from_millis(1500));
    crate::tally::count(crate::tally::Done::StateNotWritten);
    let after = read(&own(7, &servers, &[])).unwrap();
    let more = |family: &str, part: &str| {
        value(&after, family, part).unwrap() - value(&before, family, part).unwrap()
    };
    assert!(more("portway_reconcile_seconds", "_count") >= 1.0);
    assert!(more("portway_reconcile_seconds", "_sum") >= 1.499);
    assert!(more("portway_state_writes_total", "failed") >= 1.0);
}

/// Fails when: two parts of what is answered to one question have a family in common.
#[test]
fn all_parts_together_are_one_page() {
    let process = Watched { labels: labels([("process", "daemon")]), pid: std::process::id() };
    let text = render(&[device(1)]) + &own(0, &[], &[]) + &processes(&[process]) + &health(&[]);
    let page = read(&text).unwrap();
    assert!(value(&page, "portway_process_open_fds", "daemon").is_some_and(|count| count > 2.0));
}

#[test]
fn what_is_in_a_label_stays_in_it() {
    let hostile = "a\\b\"c\nd} 1 {";
    let mut page = Page::default();
    page.family("x", "gauge", "y");
    page.sample("x", &labels([("instance", hostile)]), 1);
    let text = page.into_text();
    assert_eq!(text.lines().count(), 3, "{text}");
    let (pairs, rest) = label_pairs(text.lines().nth(2).unwrap().strip_prefix("x{").unwrap()).unwrap();
    assert_eq!((pairs, rest), (vec![("instance".to_owned(), hostile.to_owned())], " 1"));
}

/// Fails when: a page costs more than a fixed amount per device, so that a host with many devices cannot be watched.
#[test]
fn ten_thousand_devices_are_a_page_of_bounded_size() {
    let devices: Vec<api::Device> = (0..10_000).map(device).collect();
    let text = render(&devices);
    assert!(text.len() < 10_000 * 3000, "{} bytes", text.len());
    // Each device has each of its series once, and none of them is another's.
    assert_eq!(text.lines().filter(|line| line.starts_with("portway_device_up{")).count(), 10_000);
    let series: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' ').map(|(series, _)| series))
        .collect();
    assert_eq!(series.len(), text.lines().filter(|line| !line.starts_with('#')).count());
}

/// The dashboard that comes with Portway.
const DASHBOARD: &str = include_str!("../../../../contrib/grafana/portway.json");

/// Names of metrics in the queries of `value`, without what histograms and summaries put behind them.
fn queried(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => fields.values().for_each(|field| queried(field, found)),
        serde_json::Value::Array(items) => items.iter().for_each(|item| queried(item, found)),
        serde_json::Value::String(text) => {
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names = words.filter(|word| word.starts_with("portway_"));
            let bare = names.map(|name| {
                let cut = ["_bucket", "_count", "_sum"].into_iter().find_map(|end| name.strip_suffix(end));
                cut.unwrap_or(name).to_owned()
            });
            found.extend(bare);
        }
        _ => {}
    }
}

/// Fails when: the dashboard asks for what is not there, or shows not all there is.
#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut asked = BTreeSet::new();
    queried(&dashboard["panels"], &mut asked);
    let process = Watched { labels: labels([("process", "daemon")]), pid: std::process::id() };
    let text = render(&[device(1)]) + &own(0, &[], &[]) + &processes(&[process]) + &health(&[]);
    let mut there: BTreeSet<String> = read(&text).unwrap().into_keys().collect();
    // Families of others, by the text that makes them.
    let mesh = include_str!("../networks/shown.rs");
    there.extend(["portway_mesh_up", "portway_mesh_restarts_total"].map(str::to_owned));
    assert!(
        there.iter().filter(|name| name.starts_with("portway_mesh")).all(|name| mesh.contains(name.as_str()))
    );
    let ssh = include_str!("../../../sshgw/src/broker/count.rs");
    let of_ssh = |name: &&String| {
        name.strip_prefix("portway_ssh_").is_some_and(|name| ssh.contains(&format!("\"{name}\"")))
    };
    let missing: Vec<&String> = asked.iter().filter(|name| !there.contains(*name) && !of_ssh(name)).collect();
    assert!(missing.is_empty(), "asked for and not there: {missing:?}");
    let unseen: Vec<&String> = there.difference(&asked).collect();
    assert!(unseen.is_empty(), "there and not shown: {unseen:?}");
}

/// Fails when: a cap is counted and the page of limits does not say what it is.
#[test]
fn each_cap_that_is_counted_is_on_the_page_of_limits() {
    let page = include_str!("../../../../docs/limits.md");
    let devices = of_devices(&[]).map(|(name, _)| name);
    for name in crate::tally::Hit::ALL.iter().map(|cap| cap.name()).chain(devices) {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}
