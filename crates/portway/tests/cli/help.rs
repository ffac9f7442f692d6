//! Help of every command, as printed.

use crate::support::Place;

const COMMANDS: [&[&str]; 40] = [
    &[],
    &["demo"],
    &["proxy"],
    &["daemon"],
    &["device"],
    &["device", "add"],
    &["device", "set"],
    &["device", "unset"],
    &["device", "remove"],
    &["device", "rename"],
    &["device", "show"],
    &["device", "list"],
    &["device", "adopt"],
    &["device", "import"],
    &["device", "export"],
    &["apply"],
    &["ssh"],
    &["ssh", "explain"],
    &["ssh", "serve"],
    &["ssh", "sessions"],
    &["ssh", "kill"],
    &["ssh", "import"],
    &["ssh", "policy"],
    &["ssh", "policy", "check"],
    &["compose"],
    &["compose", "config"],
    &["compose", "exec"],
    &["compose", "logs"],
    &["compose", "port"],
    &["compose", "top"],
    &["compose", "stats"],
    &["compose", "images"],
    &["compose", "volumes"],
    &["compose", "ls"],
    &["status"],
    &["top"],
    &["events"],
    &["doctor"],
    &["completion"],
    &["man"],
];

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    for command in COMMANDS {
        let arguments = [command, &["--help"]].concat();
        let text = place.run(&arguments);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "a line is too long:\n{text}");
        assert!(!text.contains('\u{1b}'), "colours without a terminal");
        insta::assert_snapshot!(
            format!("help_{}", ["portway"].iter().chain(command).copied().collect::<Vec<_>>().join("_")),
            text
        );
    }
}

#[test]
fn no_arguments_ask_for_some() {
    let place = Place::new();
    for command in [&[] as &[&str], &["device"]] {
        let output = place.command(command).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8(output.stderr).unwrap().contains("Commands:"));
    }
}
