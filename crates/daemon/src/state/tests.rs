use std::time::{Duration, Instant};

use portway_control::api;

use super::*;

fn device(instance: &str, name: &str, port: u16) -> StoredDevice {
    let listen = format!("tcp:127.0.0.1:{port}");
    StoredDevice {
        instance: instance.parse().unwrap(),
        uuid: Some("6a1c".into()),
        name: name.parse().unwrap(),
        keys: DeviceSpec::from_keys([("listen", listen.as_str()), ("connect", "tcp:127.0.0.1:80")]).unwrap(),
        origin: None,
    }
}

fn desired(devices: &[StoredDevice]) -> Desired {
    devices.iter().map(|device| (device.key(), device.clone())).collect()
}

fn put(path: &Path, generation: u64, devices: &Desired) {
    save(path, generation, &Lines::of(devices, &Refused::new()).unwrap()).unwrap();
}

#[test]
fn what_was_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let wanted = desired(&[device("incus:default/c1", "web", 8080), device("netns:blue", "dns", 8053)]);
    put(&path, 4, &wanted);
    let loaded = load(&path);
    assert_eq!((loaded.generation, loaded.desired, loaded.damaged), (4, wanted, false));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_missing_file_is_an_empty_state() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = load(&folder.path().join("state.json"));
    assert!(loaded.desired.is_empty() && loaded.warnings.is_empty() && !loaded.damaged);
}

/// Fails when `read` stops comparing the checksum, or `load` stops trying the previous file.
#[test]
fn every_truncation_and_every_flipped_byte_falls_back_to_the_previous_generation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let older = desired(&[device("incus:default/c1", "web", 8080)]);
    let newer = desired(&[device("incus:default/c1", "web", 9090)]);
    put(&path, 1, &older);
    put(&path, 2, &newer);
    let (good, prev) = (fs::read(&path).unwrap(), fs::read(previous(&path)).unwrap());
    let mut broken: Vec<Vec<u8>> = (0..good.len() - 2).map(|length| good[..length].to_vec()).collect();
    broken.extend((0..good.len()).map(|at| {
        let mut copy = good.clone();
        copy[at] ^= 0x04;
        copy
    }));
    for content in broken {
        fs::write(&path, &content).unwrap();
        fs::write(previous(&path), &prev).unwrap();
        let loaded = load(&path);
        // A flip in white space leaves the same document; every other one is noticed.
        let same = loaded.desired == newer && loaded.generation == 2;
        assert!(same || (loaded.desired == older && loaded.generation == 1 && !loaded.warnings.is_empty()));
    }
}

/// Fails when `load` keeps files aside before it has found one that it can use, or `Store::start`
/// writes all the same.
#[test]
fn with_both_generations_damaged_nothing_is_written_and_both_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    fs::write(&path, b"{").unwrap();
    fs::write(previous(&path), b"").unwrap();
    for _ in 0..2 {
        let loaded = load(&path);
        assert!(loaded.lost && loaded.damaged && loaded.desired.is_empty());
        assert_eq!(loaded.warnings.len(), 3);
        let store = Store::start(path.clone(), &loaded).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let change = Change::Put(Box::new(device("netns:blue", "web", 8080)));
        runtime.block_on(store.commit(vec![change])).unwrap_err();
    }
    assert_eq!((fs::read(&path).unwrap(), fs::read(previous(&path)).unwrap()), (b"{".to_vec(), Vec::new()));
}

/// Fails when the state is opened like an ordinary file: a pipe hangs.
#[test]
fn a_state_that_is_no_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let loaded = load(&path);
    assert!(loaded.lost && loaded.warnings[0].ends_with("is a pipe, not a file"), "{:?}", loaded.warnings);
}

#[test]
fn a_store_that_cannot_write_keeps_the_old_state() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone/state.json");
    let loaded = load(&gone);
    let store = Store::start(gone, &loaded).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let change = Change::Put(Box::new(device("netns:blue", "web", 8080)));
    let failure = runtime.block_on(store.commit(vec![change])).unwrap_err();
    assert!(failure.contains("cannot create"), "{failure}");
}

#[test]
fn commits_are_on_disk_when_they_return() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let store = Store::start(path.clone(), &load(&path)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let web = device("netns:blue", "web", 8080);
    runtime.block_on(store.commit(vec![Change::Put(Box::new(web.clone()))])).unwrap();
    assert_eq!(load(&path).desired, desired(std::slice::from_ref(&web)));
    let to = DeviceKey { instance: "netns:green".parse().unwrap(), device: "www".parse().unwrap() };
    runtime.block_on(store.commit(vec![Change::Rename { from: web.key(), to: to.clone() }])).unwrap();
    assert_eq!(load(&path).desired.keys().cloned().collect::<Vec<_>>(), vec![to.clone()]);
    runtime.block_on(store.commit(vec![Change::Delete(to)])).unwrap();
    assert!(load(&path).desired.is_empty());
}

/// Fails when binding puts the device it was told about: one that was taken back would be there again.
#[test]
fn only_a_device_that_is_there_and_unbound_is_bound() {
    let bound = device("netns:blue", "web", 8080);
    let unbound = StoredDevice { uuid: None, ..device("netns:blue", "dns", 8053) };
    let mut wanted = desired(&[bound.clone(), unbound.clone()]);
    let bind = |key: DeviceKey| Change::Bind { key, uuid: "77ff".into() };
    apply(&mut wanted, &bind(device("netns:blue", "gone", 8080).key()));
    apply(&mut wanted, &bind(bound.key()));
    assert_eq!(wanted, desired(&[bound.clone(), unbound.clone()]));
    apply(&mut wanted, &bind(unbound.key()));
    assert_eq!(wanted, desired(&[bound, StoredDevice { uuid: Some("77ff".into()), ..unbound }]));
}

/// Fails when more is written than is read: the next start would find no state.
#[test]
fn what_would_not_be_read_again_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let older = desired(&[device("netns:blue", "web", 8080)]);
    put(&path, 1, &older);
    let text = fs::read(&path).unwrap();
    let limit = text.len() as u64;
    assert!(check_size(&path, &text, limit).is_ok());
    let text = check_size(&path, &text, limit - 1).unwrap_err().to_string();
    assert!(text.ends_with(&format!("would be {limit} bytes, more than {}: too many devices", limit - 1)));

    let mut large = device("netns:blue", "dns", 8053);
    large.uuid = Some("6".repeat(usize::try_from(MAX_FILE_BYTES).unwrap()));
    let store = Store::start(path.clone(), &load(&path)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refusal = runtime.block_on(store.commit(vec![Change::Put(Box::new(large))])).unwrap_err();
    assert!(refusal.ends_with("too many devices"), "{refusal}");
    let loaded = load(&path);
    assert_eq!((loaded.generation, &loaded.desired, loaded.damaged), (1, &older, false));
    assert!(!previous(&path).exists());
    let small = device("netns:blue", "www", 8081);
    runtime.block_on(store.commit(vec![Change::Put(Box::new(small))])).unwrap();
    assert_eq!(load(&path).desired.len(), 2);
}

/// A state of `web` and of `odd`, whose keys no build has had.
fn with_refused(path: &Path) {
    let odd: StoredText = serde_json::from_value(serde_json::json!({
        "instance": "incus:default/c1", "uuid": "6a1c", "name": "odd",
        "keys": {"connect": "tcp:127.0.0.1:80", "listen": "tcp:127.0.0.1:7000", "warp": "9"},
    }))
    .unwrap();
    let web = StoredText::from(&device("incus:default/c1", "web", 8080));
    let mut sum = Sum::new(7);
    [&odd, &web].iter().for_each(|device| sum.add(&serde_json::to_string(device).unwrap()));
    let text = serde_json::json!({
        "version": LAYOUT_VERSION, "generation": 7, "sha256": sum.hex(), "devices": [odd, web],
    });
    replace(path, text.to_string().as_bytes()).unwrap();
}

/// A device whose keys are refused costs no other one, is written again as it was, and goes when it is
/// removed or replaced.
///
/// Fails when: the keys are read with the file, or refused devices are left out of what is written.
#[test]
fn a_device_whose_keys_are_refused_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    with_refused(&path);
    let first = load(&path);
    assert_eq!(first.desired, desired(&[device("incus:default/c1", "web", 8080)]));
    assert!(!first.damaged && !first.lost);
    assert_eq!(first.warnings.len(), 1);
    assert!(first.warnings[0].starts_with("incus:default/c1/odd: its stored keys are refused: unknown key"));
    let odd = first.refused.keys().next().unwrap().clone();
    let shown = first.refused[&odd].show();
    assert_eq!((shown.state, shown.listen.as_str()), (api::DeviceState::Failed, "tcp:127.0.0.1:7000"));
    assert_eq!(shown.keys["warp"], "9");

    let store = Store::start(path.clone(), &first).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let commit = |change| runtime.block_on(store.commit(vec![change])).unwrap();
    commit(Change::Put(Box::new(device("netns:blue", "dns", 8053))));
    let second = load(&path);
    assert_eq!((second.desired.len(), second.refused[&odd].show().keys), (2, shown.keys));
    commit(Change::Delete(odd.clone()));
    assert!(load(&path).refused.is_empty());

    with_refused(&path);
    let store = Store::start(path.clone(), &load(&path)).unwrap();
    let replaced = device("incus:default/c1", "odd", 7000);
    runtime.block_on(store.commit(vec![Change::Put(Box::new(replaced.clone()))])).unwrap();
    let third = load(&path);
    assert!(third.refused.is_empty() && third.desired[&odd] == replaced);
}

/// Any changes, in heaps of which some fail: the file is what its lines are, and says what the changes make of what
/// was loaded.
///
/// Fails when: a line is not made anew, or stays, or comes back other than it was when a write has failed.
#[test]
fn lines_are_what_changes_make_of_them() {
    let key = |n: u16| {
        device(["netns:blue", "netns:green"][usize::from(n % 2)], &format!("d{}", n / 2 % 6), 1).key()
    };
    let config = proptest::test_runner::Config::with_cases(64);
    proptest::proptest!(config, |(changes in proptest::collection::vec((0..4, 0..12_u16, 0..12_u16, 0..9), 1..60))| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        with_refused(&path);
        let Loaded { mut desired, mut refused, .. } = load(&path);
        let mut lines = Lines::of(&desired, &refused).unwrap();
        let odd = refused.keys().next().unwrap().clone();
        for (generation, (kind, one, other, last)) in changes.into_iter().enumerate() {
            let one = if last == 0 { odd.clone() } else { key(one) };
            let change = match kind {
                0 => {
                    let DeviceKey { instance, device: name } = one;
                    let uuid = (other % 2 == 0).then(|| "77ff".to_owned());
                    Change::Put(Box::new(StoredDevice { instance, name, uuid, ..device("netns:blue", "d", 1 + other) }))
                }
                1 => Change::Delete(one),
                2 if refused.contains_key(&one) => continue,
                2 => Change::Bind { key: one, uuid: format!("{other}") },
                _ => Change::Rename { from: one, to: key(other) },
            };
            let mut before = Before::default();
            let old = lines.clone();
            lines.apply(&change, &mut before).unwrap();
            if last == 8 {
                lines.restore(before);
                proptest::prop_assert_eq!(&lines, &old);
                continue;
            }
            // A name that is given goes over one that is there, be that refused or not.
            if let Change::Rename { from, to } = &change && from != to && (desired.contains_key(from) || refused.contains_key(from)) {
                desired.remove(to);
                refused.remove(to);
            }
            apply(&mut desired, &change);
            keep_up(&mut refused, &change);
            let text = lines.file(generation as u64);
            let read = decode(&path, &text).unwrap();
            proptest::prop_assert_eq!(&read.desired, &desired);
            proptest::prop_assert!(read.refused.iter().map(|(key, device)| (key, &device.text)).eq(refused.iter().map(|(key, device)| (key, &device.text))));
            let whole = serde_json::from_slice::<serde_json::Value>(&text).unwrap();
            proptest::prop_assert_eq!(whole["generation"].as_u64(), Some(generation as u64));
        }
    });
}

/// Catalogue: a file of whatever shape is refused, or read, in time: a tenth of a second where nothing else runs.
///
/// Fails when: what has been read is looked at again for each part of it.
#[test]
fn no_shape_of_a_file_is_slow() {
    let (size, limit) = (10 << 20, Duration::from_secs(20));
    let filled = |head: &str, part: &str| format!("{head}{}", part.repeat(size / part.len()));
    let head = r#"{"version":1,"generation":1,"sha256":"","devices":["#;
    let refused = r#"{"instance":"incus:default/c1","name":"a","keys":{"x":"y"}},"#;
    let keys: String = (0..size / 16).map(|number| format!("\"k{number}\":\"v\",")).collect();
    let large = [
        filled("", "["),
        filled("", "{\"a\":"),
        filled("", " "),
        filled("", "\n"),
        filled("\"", "\\u0041"),
        filled("", "1"),
        filled(head, "["),
        filled(head, "{},"),
        filled(head, refused),
        format!("{}{}]}}", head, filled("", refused).trim_end_matches(',')),
        format!(
            r#"{head}{{"instance":"incus:default/c1","name":"a","keys":{{{}}}}}]}}"#,
            keys.trim_end_matches(',')
        ),
    ];
    for text in large {
        let begin = Instant::now();
        assert!(decode(Path::new("f"), text.as_bytes()).is_err(), "{:.100}", text);
        let took = begin.elapsed();
        assert!(took < limit, "{:.100}: {took:?}", text);
    }
}

#[test]
fn the_systems_words_come_without_their_number() {
    let source = io::Error::from_raw_os_error(2);
    let failure = StateError::Write(AsideError { operation: "write", path: "/s".into(), source });
    assert_eq!(with_sources(&failure), "cannot write /s: No such file or directory");
    assert_eq!(with_sources(&StateError::Stopped), "the state writer has stopped");
}
