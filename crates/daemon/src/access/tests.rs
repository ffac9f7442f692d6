//! Files of the log: what is written, turned, refused and lost.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn record(number: u64) -> AccessRecord {
    AccessRecord {
        device: "netns:n1/web".into(),
        number,
        ended_millis: 1_700_000_000_123,
        client: "192.0.2.1:5000".parse().ok(),
        via: None,
        listen: "tcp:0.0.0.0:80".into(),
        target: "tcp:127.0.0.1:8080".into(),
        bytes_in: 3,
        bytes_out: 4,
        lasted_micros: 1500,
        dial_micros: Some(200),
        end: "done".into(),
    }
}

fn instance() -> InstanceKey {
    "netns:n1".parse().unwrap()
}

/// A log that writes to `path`, whose thread has ended with what `use_it` gave it.
fn log(path: &Path, max_bytes: u64, files: u32, use_it: impl FnOnce(&AccessLog)) {
    let log = AccessLog::default();
    let settings = AccessSettings { on: true, path: None, max_bytes, files };
    log.follow(&settings, path);
    use_it(&log);
    log.end();
}

fn read(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is counted is counted for the process: tests that compare counts do so one after the other.
static COUNTS: Mutex<()> = Mutex::new(());

fn lost(during: impl FnOnce()) -> u64 {
    let _alone = locked(&COUNTS);
    let before = tally::counted(Done::AccessLost);
    during();
    tally::counted(Done::AccessLost) - before
}

#[test]
fn a_record_is_a_line_with_its_fields() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/access.jsonl");
    log(&path, 1 << 20, 1, |log| log.take(&instance(), "w1", vec![record(7)], 0));
    let wanted = serde_json::json!({
        "time": "2023-11-14T22:13:20.123Z", "instance": "netns:n1", "device": "web", "id": "w1-7",
        "client": "192.0.2.1:5000", "via": null, "listen": "tcp:0.0.0.0:80", "target": "tcp:127.0.0.1:8080",
        "bytes_in": 3, "bytes_out": 4, "duration_us": 1500, "dial_us": 200, "end": "done"
    });
    assert_eq!(read(&path), [wanted]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn off_means_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let log = AccessLog::default();
    log.take(&instance(), "w1", vec![record(1)], 0);
    log.follow(&AccessSettings::default(), &path);
    assert!(!log.is_on());
    log.take(&instance(), "w1", vec![record(1)], 0);
    log.end();
    assert!(!path.exists());
}

/// Fails when: what a worker says becomes more than one line, or is about somebody else's device.
#[test]
fn what_a_worker_says_stays_in_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let hostile = AccessRecord { target: "a\n{\"x\":\"\u{1b}[2J\u{7}".repeat(100), ..record(1) };
    let others = AccessRecord { device: "netns:n2/web".into(), ..record(2) };
    let longer = AccessRecord { device: "netns:n11/web".into(), ended_millis: u64::MAX, ..record(3) };
    let lied = AccessRecord { ended_millis: u64::MAX, ..record(4) };
    let lost = lost(|| {
        log(&path, 1 << 20, 1, |log| log.take(&instance(), "w1", vec![hostile, others, longer, lied], 5));
    });
    let lines = read(&path);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["target"].as_str().unwrap().chars().count(), TEXT_MAX_CHARS);
    assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == b'\n' || *byte >= b' '));
    assert_eq!(lines[1]["time"], "9999-12-31T23:59:59.999Z");
    assert!(lost >= 7, "two strangers and five that could not be told: {lost}");
}

#[test]
fn a_full_file_is_turned_and_so_many_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    log(&path, 600, 2, |log| {
        for number in 1..=20 {
            log.take(&instance(), "w1", vec![record(number)], 0);
        }
    });
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["access.jsonl", "access.jsonl.1", "access.jsonl.2"]);
    let numbers: Vec<String> = ["access.jsonl.2", "access.jsonl.1", "access.jsonl"]
        .iter()
        .flat_map(|name| read(&dir.path().join(name)))
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    let last: Vec<String> = (21 - numbers.len()..=20).map(|number| format!("w1-{number}")).collect();
    assert_eq!(numbers, last, "in their order, without a gap");
    assert!(names.iter().all(|name| fs::metadata(dir.path().join(name)).unwrap().len() <= 600));
}

/// Fails when: after a reload lines go on into the file that logrotate has moved away.
#[test]
fn a_moved_file_is_left_at_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let moved = dir.path().join("moved");
    log(&path, 1 << 20, 1, |log| {
        log.take(&instance(), "w1", vec![record(1)], 0);
        while !path.exists() || read(&path).is_empty() {
            std::thread::yield_now();
        }
        fs::rename(&path, &moved).unwrap();
        log.follow(&AccessSettings { on: true, path: None, max_bytes: 1 << 20, files: 1 }, &path);
        log.take(&instance(), "w1", vec![record(2)], 0);
    });
    assert_eq!((read(&moved).len(), read(&path).len()), (1, 1));
}

#[test]
fn a_symlink_and_a_pipe_are_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let target = dir.path().join("target");
    fs::write(&target, "").unwrap();
    symlink(&target, &path).unwrap();
    let mut failure = None;
    let lost_there = lost(|| {
        let log = AccessLog::default();
        log.follow(&AccessSettings { on: true, path: None, max_bytes: 1 << 20, files: 1 }, &path);
        log.take(&instance(), "w1", vec![record(1), record(2)], 0);
        log.end();
        failure = log.failure();
    });
    assert!(lost_there >= 2 && failure.is_some(), "{failure:?}");
    assert_eq!(fs::read(&target).unwrap(), b"");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(lost(|| log(&path, 1 << 20, 1, |log| log.take(&instance(), "w1", vec![record(1)], 0))) >= 1);
}

/// Fails when: where no more can be written half a line stays behind, or nothing is said of it, or it does not go on once
/// there is room.
#[test]
fn where_nothing_fits_any_more_whole_lines_stay_and_the_rest_is_counted() {
    const CHILD: &str = "PORTWAY_TEST_NARROW";
    if std::env::var_os(CHILD).is_none() {
        // In a process whose files have at most 1 or 2 blocks; writing more is an error, as on a full disk.
        let own = std::env::current_exe().unwrap();
        let test = "access::tests::where_nothing_fits_any_more_whole_lines_stay_and_the_rest_is_counted";
        let narrow = "trap '' XFSZ; ulimit -f 2; exec \"$0\" --exact \"$1\"";
        let mut sh = std::process::Command::new("sh");
        let status = sh.args(["-c", narrow]).arg(own).arg(test).env(CHILD, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let settings = AccessSettings { on: true, path: None, max_bytes: 1 << 20, files: 1 };
    let log = AccessLog::default();
    log.follow(&settings, &path);
    for number in 1..=20 {
        log.take(&instance(), "w1", vec![record(number)], 0);
    }
    while tally::counted(Done::AccessLost) + tally::counted(Done::AccessWritten) < 20 {
        std::thread::yield_now();
    }
    assert!(log.failure().is_some());
    let written = read(&path).len();
    assert!((1..20).contains(&written), "{written}");
    assert_eq!(tally::counted(Done::AccessLost), 20 - written as u64);
    fs::rename(&path, dir.path().join("moved")).unwrap();
    log.follow(&settings, &path);
    log.take(&instance(), "w1", vec![record(21)], 0);
    log.end();
    assert_eq!((read(&path).len(), log.failure()), (1, None));
}
