use serde_json::json;

use super::*;

fn definition(devices: serde_json::Value, note: Option<&str>) -> Definition {
    let mut config = json!({"volatile.uuid": "6a1c"});
    if let Some(note) = note {
        config["user.portway.moving.web"] = note.into();
    }
    Definition::read(json!({
        "name": "c1", "project": "default", "type": "container", "config": config, "devices": {},
        "expanded_devices": devices, "profiles": [],
    }))
    .expect("a definition")
}

fn stored(uuid: Option<&str>, follow: &str) -> StoredDevice {
    let keys = [("listen", "tcp::80"), ("connect", "tcp::80"), ("follow", follow)];
    StoredDevice {
        instance: "incus:default/c1".parse().expect("a name"),
        uuid: uuid.map(str::to_owned),
        name: "web".parse().expect("a name"),
        keys: DeviceSpec::from_keys(keys).expect("a device"),
        origin: None,
    }
}

#[test]
fn a_device_of_an_instance_that_is_gone_is_not_given_to_its_namesake() {
    let present = definition(json!({}), None);
    assert!(belongs(&stored(Some("6a1c"), "uuid"), &present));
    assert!(belongs(&stored(None, "uuid"), &present));
    assert!(belongs(&stored(Some("77ff"), "name"), &present));
    assert!(!belongs(&stored(Some("77ff"), "uuid"), &present));
}

/// A copy has the notes of its original; they are not about it.
#[test]
fn a_note_counts_for_its_own_instance_and_only_without_the_device() {
    let proxy = json!({"type": "proxy", "listen": "tcp::80", "connect": "tcp::80"});
    let seals = Seals::with([7; 32]);
    let note = |uuid: &str| {
        let origin =
            serde_json::from_value(json!({"device": proxy, "place": "instance"})).expect("an origin");
        let mut of = definition(json!({}), None);
        of.set_config(UUID, Some(uuid));
        Note::text(&of, "web", origin, &seals)
    };
    let verdicts = |definition: &Definition, here: &BTreeMap<DeviceName, StoredDevice>| {
        candidates(Provider::Incus, definition, here, &seals)
            .into_iter()
            .map(|one| one.verdict)
            .collect::<Vec<_>>()
    };
    let none = BTreeMap::new();
    let here = BTreeMap::from([("web".parse().expect("a name"), stored(None, "uuid"))]);
    let noted = definition(json!({}), Some(&note("6a1c")));
    assert!(matches!(verdicts(&noted, &none)[..], [Verdict::Take { noted: true, .. }]));
    assert_eq!(verdicts(&noted, &here), [Verdict::Finish]);
    assert_eq!(verdicts(&definition(json!({}), Some(&note("77ff"))), &none), []);
    assert_eq!(verdicts(&definition(json!({}), Some("{")), &none), []);
    let both = definition(json!({"web": proxy}), Some(&note("6a1c")));
    assert!(matches!(verdicts(&both, &none)[..], [Verdict::Take { noted: false, .. }]));
    assert!(matches!(verdicts(&both, &here)[..], [Verdict::Skip(_)]));
}

/// Whoever may edit an instance can write a note; Incus has not checked what it says.
///
/// Fails when: a note counts without looking at its seal, or the seal covers less than the whole note.
#[test]
fn a_note_that_somebody_else_wrote_does_not_count() {
    let seals = Seals::with([7; 32]);
    let device = json!({"type": "proxy", "listen": "tcp::80", "connect": "tcp::80"});
    let origin: Origin =
        serde_json::from_value(json!({"device": device, "place": "instance"})).expect("an origin");
    let of = definition(json!({}), None);
    let counts = |note: &str| {
        !candidates(Provider::Incus, &definition(json!({}), Some(note)), &BTreeMap::new(), &seals).is_empty()
    };
    let note = Note::text(&of, "web", origin.clone(), &seals);
    assert!(counts(&note));
    assert!(!counts(&note.replace("tcp::80", "tcp::81")));
    assert!(!counts(&note.replace("instance", "profile")));
    assert!(!counts(&Note::text(&of, "other", origin.clone(), &seals)), "of another device");
    assert!(!counts(&Note::text(&of, "web", origin.clone(), &Seals::with([8; 32]))), "of another Portway");
    let mut unsealed: serde_json::Value = serde_json::from_str(&note).expect("json");
    unsealed["seal"] = "".into();
    assert!(!counts(&unsealed.to_string()));
    let nobody = Seals::none();
    let found = candidates(Provider::Incus, &definition(json!({}), Some(&note)), &BTreeMap::new(), &nobody);
    assert!(found.is_empty(), "without a key no note counts");
}
