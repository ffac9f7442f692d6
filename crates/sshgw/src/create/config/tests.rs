use super::*;

fn read(text: &str) -> Result<CreateConfig, String> {
    let include = |name: &str| match name {
        "cloud.yaml" => Ok("#cloud-config\n".to_owned()),
        _ => Err(format!("{name}: it is not there")),
    };
    CreateConfig::read(text, include)
        .map_err(|fault| format!("{}:{}: {}", fault.line, fault.column, fault.message))
}

const NEW: &str = "---
version: 1
defaults:
  image: ubuntu/24.04
  memory: 2
  cpu: 2
  disk: 10GB
  ephemeral: false
  devices:
  config:
    security.nested: true
    user.user-data: !include cloud.yaml
    user.vendor-data: \"!include cloud.yaml\"
    user.network-config: <@cloud.yaml
profiles:
  web:
    memory: 512MiB
    vm: true
    devices:
      eth1: {type: nic, network: dmz, mtu: 1400}
  small: {cpu: 0, disk: 0}
";

/// Fails when a file of either time is read as something else than it says.
#[test]
fn files_of_both_times_are_read() {
    let new = read(NEW).expect("the newer one");
    let text = |text: &str| text.to_owned();
    let cloud = || text("#cloud-config\n");
    let defaults = Recipe {
        image: Some(text("ubuntu/24.04")),
        memory: Some(text("2GiB")),
        cpu: Some(2),
        disk: Some(text("10GB")),
        ephemeral: Some(false),
        config: [
            (text("security.nesting"), text("true")),
            (text("user.user-data"), cloud()),
            (text("user.vendor-data"), cloud()),
            (text("user.network-config"), cloud()),
        ]
        .into(),
        ..Recipe::default()
    };
    assert_eq!(new.defaults, defaults);
    assert_eq!(new.warnings.len(), 1, "{:?}", new.warnings);
    assert_eq!(new.included, ["cloud.yaml"; 3]);
    let web = &new.profiles["web"];
    assert_eq!((web.memory.as_deref(), web.vm), (Some("512MiB"), Some(true)));
    assert_eq!(web.devices["eth1"]["mtu"], "1400");
    assert_eq!(new.profiles["small"].disk.as_deref(), Some(""));
    let old = read("version: \"0.7\"\nimage: alpine/edge\nmemory: 1\nconfig: {security.nesting: \"true\"}\n");
    let old = old.expect("the older one");
    assert_eq!(old.defaults.memory.as_deref(), Some("1GiB"));
    assert!(old.warnings.is_empty() && old.defaults.config["security.nesting"] == "true");
    for empty in ["", "# nothing\n", "---\n", "defaults:\n"] {
        assert_eq!(read(empty).expect("nothing"), CreateConfig::default(), "{empty:?}");
    }
}

/// Fails when what means nothing is taken for no limit, as the other does, or is told without its place.
#[test]
fn what_means_nothing_is_told_with_its_place() {
    for (text, why) in [
        ("defaults:\n  memory: lots\n", "2:11: `lots` is no size"),
        ("defaults:\n  memory: 4gb\n", "2:11: `4gb` is no size"),
        ("defaults:\n  disk: -1\n", "2:9: `-1` is no size"),
        ("cpu: 1.5\n", "1:6: `1.5` is no number of processors"),
        ("defaults:\n  memroy: 4\n", "2:3: unknown key `memroy`, is it memory?"),
        ("default:\n  memory: 4\n", "1:1: unknown key `default`"),
        ("profiles: {}\nmemory: 4\n", "2:1: `memory` stands below `defaults:`"),
        ("vm: yes\n", "1:5: `yes` is neither true nor false"),
        ("image: [a]\n", "1:8: a single value stands here, not a list"),
        ("image: ''\n", "1:8: `` is no image"),
        ("image: \"a b\"\n", "1:8: `a b` is no image"),
        ("image: <@cloud.yaml\n", "1:8: files are included in values of `config` alone"),
        ("config:\n  a: !include none\n", "2:15: cannot include none: it is not there"),
        ("config:\n  a: !secret b\n", "2:14: unknown tag !secret"),
        ("config: {security.nested: 1, security.nesting: 1}\n", "1:30: `security.nesting` is there twice"),
        ("memory: 1\nmemory: 2\n", "2:1: `memory` is there twice"),
        ("- a\n", "1:1: the file is a mapping, not a list"),
        ("image: a\n---\nimage: b\n", "2:1: a second document"),
        ("config: &a {}\n", "1:"),
        ("config: *a\n", "1:"),
        ("config: {\n", ""),
    ] {
        let said = read(text).expect_err(text);
        assert!(said.starts_with(why), "{text:?}: {said}");
    }
    let deep = format!("config: {}{}", "{a: ".repeat(30), "}".repeat(30));
    read(&deep).expect_err("it is deep");
}

/// Fails when a file outside of the folder is read.
#[test]
fn only_files_of_the_folder_are_included() {
    let outer = tempfile::tempdir().expect("a folder");
    let dir = outer.path().join("etc");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(outer.path().join("secret"), "s").expect("written");
    std::fs::write(dir.join("good"), "g").expect("written");
    std::os::unix::fs::symlink("../secret", dir.join("link")).expect("linked");
    let main = dir.join("create-config.yaml");
    let with = |name: &str| {
        std::fs::write(&main, format!("config: {{user.a: '<@{name}'}}\n")).expect("written");
        CreateConfig::load(&main).map(|config| config.defaults.config["user.a"].clone())
    };
    assert_eq!(with("good").expect("it is read"), "g");
    for bad in ["../secret", "/etc/passwd", "link", "none", "", "."] {
        let error = with(bad).expect_err(bad).to_string();
        assert!(error.contains("create-config.yaml:1:18: cannot include "), "{error}");
    }
    std::fs::remove_file(&main).expect("removed");
    assert_eq!(CreateConfig::load(&main).expect("none"), CreateConfig::default());
}
