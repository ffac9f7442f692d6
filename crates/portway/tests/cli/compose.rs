//! `portway compose`: what it prints and refuses, without a server.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::support::Place;

/// A project of three services, with a file laid over it, and one that is for Incus only.
fn project() -> Place {
    let place = Place::new();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    write(
        "compose.yaml",
        "name: shop\n\
         services:\n\
         \x20 web: {image: \"nginx:${TAG:-1}\", ports: [\"8080:80\"], depends_on: [db], volumes: [\"data:/data\"]}\n\
         \x20 db: {image: \"postgres:$DB_TAG\", environment: [PASSWORD=a$$b]}\n\
         \x20 debug: {image: busybox, profiles: [dev], command: \"sh -c '${RUN:?say what}'\"}\n\
         volumes: {data: }\n",
    );
    write("compose.override.yaml", "services: {web: {ports: [\"8443:443\"]}}\n");
    write("compose.incus.yaml", "services: {web: {x-incus: {nat-proxy: true}}}\n");
    write(".env", "DB_TAG=16\nRUN=top\n");
    place
}

fn run(place: &Place, arguments: &[&str]) -> String {
    let arguments = [&["compose"], arguments].concat();
    let output = place.command(&arguments).current_dir(place.path()).output().unwrap();
    place.seen(&arguments, &output)
}

/// Fails when a file that is laid over another is left out, or the form is no longer the canonical one.
#[test]
fn a_project_is_printed_in_canonical_form() {
    let place = project();
    let mut text = run(&place, &["config"]);
    text.push_str(&run(&place, &["--profile", "dev", "config", "debug", "--format", "json"]));
    let written = run(&place, &["config", "--no-interpolate"]);
    assert!(written.contains("image: \"nginx:${TAG:-1}\""), "{written}");
    insta::assert_snapshot!(text);
}

/// Fails when a list has something else in it than what it is called after.
#[test]
fn lists_are_printed_one_name_on_a_line() {
    let place = project();
    let mut text = String::new();
    for list in ["--services", "--volumes", "--networks", "--images", "--profiles", "--variables"] {
        text.push_str(&run(&place, &["config", list]));
        text.push('\n');
    }
    let environment = run(&place, &["-p", "other", "config", "--environment"]);
    assert!(environment.contains("\nDB_TAG=16\n"), "{environment}");
    assert!(environment.contains("\nCOMPOSE_PROJECT_NAME=other\n"), "{environment}");
    insta::assert_snapshot!(text);
}

/// Fails when replicas count for the hash, or a port does not.
#[test]
fn a_hash_stays_while_only_replicas_change() {
    let place = project();
    let hash = |over: &str| {
        fs::write(place.path().join("over.yaml"), over).unwrap();
        run(&place, &["-f", "compose.yaml", "-f", "over.yaml", "config", "--hash", "web"])
    };
    let first = hash("services: {web: {scale: 1}}");
    assert_eq!(first, hash("services: {web: {scale: 2}}"));
    assert_ne!(first, hash("services: {web: {ports: [\"1:1\"]}}"));
}

/// Fails when a variable of incus-compose is not read, or standard input is none of the files.
#[test]
fn files_are_found_where_they_are_named() {
    let place = project();
    let with = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = place.command(&[&["compose"], arguments].concat());
        let output = command.envs(variables.iter().copied()).current_dir("/").output().unwrap();
        place.seen(arguments, &output)
    };
    let dir = place.path().display().to_string();
    let file = place.path().join("compose.yaml").display().to_string();
    let over = place.path().join("compose.override.yaml").display().to_string();
    let none = with(&[], &["config", "-q"]);
    assert!(none.contains("there is no compose.yaml") && none.ends_with("[exit 4]\n"), "{none}");
    let (separated, colon) = (format!("{file},{over}"), format!("{file}:{over}"));
    for variable in [
        ("INCUS_COMPOSE_PROJECT_DIRECTORY", dir.as_str()),
        ("INCUS_COMPOSE_FILE", &separated),
        ("COMPOSE_FILE", &colon),
    ] {
        let ports = with(&[variable], &["config"]);
        assert!(ports.contains("published: \"8443\"") && ports.contains("nat-proxy"), "{ports}");
    }
    let services = with(&[("INCUS_COMPOSE_PROFILES", "dev")], &["-P", &dir, "config", "--services"]);
    assert!(services.contains("\ndebug\n"), "{services}");
    let mut command = place.command(&["compose", "-f", "-", "config", "--images"]);
    let mut child =
        command.current_dir(place.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"services: {a: {image: \"x:$DB_TAG\"}}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "x:16\n");
}

/// Fails when a fault does not say where it is, or has another exit code.
#[test]
fn what_is_wrong_is_said_with_its_place() {
    let place = Place::new();
    let mut text = String::new();
    for file in [
        "services: {web: {image: x, prots: []}}",
        "services:\n  web:\n    image: x\n    ports: ['70000:1']\n",
        "services: {web: {image: '${A:?is needed}'}}",
        "services: {web: {image: x, env_file: gone.env}}",
        "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}",
        "a: &a [*a]",
        "",
    ] {
        fs::write(place.path().join("compose.yaml"), file).unwrap();
        text.push_str(&run(&place, &["-p", "x", "config", "-q"]));
    }
    fs::write(place.path().join("compose.yaml"), "services: {web: {image: x}}").unwrap();
    text.push_str(&run(&place, &["-p", "x", "config", "wbe"]));
    text.push_str(&run(&place, &["-p", "X Y", "config"]));
    text.push_str(&run(&place, &["-f", "gone.yaml", "config"]));
    text.push_str(&run(&place, &["-p", "x", "config", "-o", "no/such/folder"]));
    insta::assert_snapshot!(text);
}

/// Fails when a word that is nearly right is refused without the right one.
#[test]
fn a_word_that_is_nearly_right_has_a_hint() {
    let place = project();
    fs::write(place.path().join("key.yaml"), "services: {web: {image: x, enviroment: {A: 1}}}").unwrap();
    for (arguments, hint) in [
        (&["dwon"] as &[&str], "'down'"),
        (&["up", "--forcerecreate"], "'--force-recreate'"),
        (&["config", "--servces"], "'--services'"),
        (&["config", "webb"], "`web`"),
        (&["-f", "key.yaml", "config"], "`environment`"),
    ] {
        let said = run(&place, arguments);
        let line = said.lines().find(|line| line.starts_with("hint: "));
        assert!(line.is_some_and(|line| line.contains(hint)), "{said}");
    }
}

/// Fails when a file is written to the end of what is there.
#[test]
fn a_project_is_written_into_a_file() {
    let place = project();
    for _ in 0..2 {
        assert_eq!(
            run(&place, &["config", "--services", "-o", "out"]),
            "$ portway compose config --services -o out\n"
        );
    }
    assert_eq!(fs::read_to_string(place.path().join("out")).unwrap(), "db\nweb\n");
}
