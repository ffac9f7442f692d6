use portway_proto::login::{Dialect, Login, Wish};

use super::*;

fn wanted(login: &str) -> Wanted {
    match Login::parse(login, Dialect::Auto).expect("a login").wish {
        Wish::Create(create) => Wanted::from(&create),
        other => unreachable!("{other:?}"),
    }
}

fn keys(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn config() -> CreateConfig {
    let defaults = Recipe {
        image: Some("ubuntu/24.04".to_owned()),
        memory: Some("2GiB".to_owned()),
        cpu: Some(2),
        devices: [("eth0".to_owned(), keys(&[("type", "nic"), ("network", "a")]))].into(),
        config: keys(&[("user.a", "1"), ("user.b", "1"), ("limits.memory", "9GiB")]),
        ..Recipe::default()
    };
    let web = Recipe {
        memory: Some("512MiB".to_owned()),
        devices: [("eth0".to_owned(), keys(&[("type", "none")]))].into(),
        config: keys(&[("user.b", "2")]),
        ..Recipe::default()
    };
    let free = Recipe { memory: Some(String::new()), ephemeral: Some(true), ..Recipe::default() };
    CreateConfig {
        defaults,
        profiles: [("web".to_owned(), web), ("free".to_owned(), free)].into(),
        ..CreateConfig::default()
    }
}

/// Fails when a part counts that stands below another, or a map is replaced that is to be merged.
#[test]
fn what_is_said_last_counts() {
    let plan = config().plan(&wanted("+t1")).expect("a plan");
    assert_eq!(
        (plan.image.as_str(), plan.kind, plan.is_ephemeral),
        ("ubuntu/24.04", InstanceKind::Container, false)
    );
    let all = [("limits.cpu", "2"), ("limits.memory", "2GiB"), ("user.a", "1"), ("user.b", "1")];
    assert_eq!(plan.config, keys(&all));
    let plan = config().plan(&wanted("+t1+%web+c0+d7+alpine/edge")).expect("a plan");
    assert_eq!(plan.config, keys(&[("limits.memory", "512MiB"), ("user.a", "1"), ("user.b", "2")]));
    assert_eq!(plan.devices["eth0"], keys(&[("type", "none")]));
    assert_eq!((plan.image.as_str(), plan.disk.as_deref()), ("alpine/edge", Some("7GiB")));
    let plan = config().plan(&wanted("+t1+%web,free")).expect("a plan");
    assert!(plan.is_ephemeral && !plan.config.contains_key("limits.memory"), "{plan:?}");
    let plan = config().plan(&wanted("+t1+%free+m4")).expect("a plan");
    assert_eq!(plan.config["limits.memory"], "4GiB");
    let none = config().plan(&wanted("+t1+%wep")).expect_err("there is none").to_string();
    assert_eq!(none, "there is no creation profile wep, is it web?");
    let bare = CreateConfig::default().plan(&wanted("~t1")).expect("a plan");
    assert!(bare.image == IMAGE && bare.is_ephemeral && bare.config.is_empty() && bare.disk.is_none());
}

/// Fails when an option means something else, or one of containers is asked of a virtual machine.
#[test]
fn options_are_keys_of_the_server() {
    let of = |login: &str| CreateConfig::default().plan(&wanted(login)).expect("a plan");
    let nest = [
        ("security.nesting", "true"),
        ("security.syscalls.intercept.mknod", "true"),
        ("security.syscalls.intercept.setxattr", "true"),
    ];
    assert_eq!(of("+t1+n").config, keys(&nest));
    assert_eq!(of("+t1+p").config, keys(&[("security.privileged", "true")]));
    let both = [("security.nesting", "true"), ("security.privileged", "true")];
    assert_eq!(of("+t1+nest+priv").config, keys(&both));
    let vm = of("+t1+n+p+vm+m1");
    assert_eq!((vm.kind, vm.config), (InstanceKind::Vm, keys(&[("limits.memory", "1GiB")])));
    assert_eq!(of("+t1+images:debian%2F12").image, "images:debian/12");
    assert_eq!(of("new=t1+local:bb").image, "local:bb");
}

/// Fails when what is printed is not what is read.
#[test]
fn what_is_printed_can_be_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("create-config.yaml");
    for mut config in [config(), CreateConfig::default()] {
        config.defaults.config.insert("user.odd".to_owned(), "a: \"b\"\n\u{1}# c".to_owned());
        std::fs::write(&path, config.dump()).expect("written");
        let read =
            CreateConfig::load(&path).unwrap_or_else(|error| unreachable!("{error}: {}", config.dump()));
        config.defaults.image.get_or_insert_with(|| IMAGE.to_owned());
        assert_eq!(read, config, "{}", config.dump());
    }
    assert_eq!(CreateConfig::default().dump(), "defaults:\n  image: debian/13\n");
}

/// Fails when the file that is packaged is none.
#[test]
fn the_packaged_file_is_read() {
    let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/create-config.yaml"));
    let config = CreateConfig::load_trusting(path, portway_config::files::Trust::Named).expect("it is read");
    let plan = config.plan(&wanted("+t1+%web,small")).expect("a plan");
    assert_eq!(plan.config, keys(&[("limits.cpu", "1"), ("limits.memory", "512MiB"), ("user.role", "web")]));
    assert_eq!(plan.disk.as_deref(), Some("10GiB"));
}
