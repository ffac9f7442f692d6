//! What is listed while a replacement waits that was cut short.

use serde_json::Value;

use super::stand::Stand;

/// Fails when an instance is listed twice or not at all: while the new one stands beside the old one, when only the new one
/// is there, and when it has its name and not yet all the rest.
#[test]
fn an_instance_is_listed_once_whatever_becomes_of_its_replacement() {
    let Some(stand) = Stand::open("once") else { return };
    stand.up_is_well(1, &"at first");
    let changes =
        ["DELETE /1.0/instances/db-1?", "POST /1.0/instances/db-1-new-", "PUT /1.0/instances/db-1?"];
    for (version, change) in (2..).zip(changes) {
        stand.write(version);
        stand.kill_before(&["up", "-d", "--parallel", "1"], change);
        let of = |args: &[&str]| stand.scene.ok(args).out;
        let names = of(&["ps", "-a", "-q"]);
        let own: Vec<&str> = names.lines().filter(|name| name.starts_with("db-1")).collect();
        assert_eq!((own.len(), names.lines().count()), (1, 2), "{change}: {names}");
        let list: Value = serde_json::from_str(&of(&["list", "--format", "json"])).unwrap();
        let is_own = |row: &&Value| row["kind"] == "instance" && row["name"] == "db";
        assert_eq!(list.as_array().unwrap().iter().filter(is_own).count(), 1, "{change}: {list:#}");
        let images: Value = serde_json::from_str(&of(&["images", "--format", "json"])).unwrap();
        assert_eq!(images.as_array().unwrap().len(), 2, "{change}: {images:#}");
        let projects: Value = serde_json::from_str(&of(&["ls", "-a", "--format", "json"])).unwrap();
        let project =
            projects.as_array().unwrap().iter().find(|one| one["Name"] == stand.scene.name.as_str());
        let status = project.unwrap()["Status"].as_str().unwrap();
        let count =
            |text: &str| text.split(['(', ')']).filter_map(|word| word.parse::<u32>().ok()).sum::<u32>();
        assert_eq!(count(status), 2, "{change}: {status}");
        let logs = of(&["logs", "db"]);
        assert!(logs.lines().count() <= 1, "{change}: {logs}");
        stand.up_is_well(version, &change);
    }
    stand.down_is_well(&"after all");
}
