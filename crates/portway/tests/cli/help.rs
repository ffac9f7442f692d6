//! Help of every command, as printed.

use crate::support::Place;

const COMMANDS: [&[&str]; 59] = [
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
    &["mesh"],
    &["mesh", "check"],
    &["mesh", "proxy"],
    &["mesh", "status"],
    &["mesh", "ping"],
    &["mesh", "events"],
    &["mesh", "rule"],
    &["mesh", "rule", "add"],
    &["mesh", "rule", "remove"],
    &["mesh", "rule", "list"],
    &["mesh", "genconf"],
    &["mesh", "genkey"],
    &["mesh", "pubkey"],
    &["mesh", "genpsk"],
    &["mesh", "registrar"],
    &["mesh", "org"],
    &["mesh", "org", "create"],
    &["mesh", "org", "list"],
    &["mesh", "key"],
    &["mesh", "key", "create"],
    &["mesh", "key", "list"],
    &["mesh", "key", "revoke"],
    &["mesh", "device"],
    &["mesh", "device", "list"],
    &["mesh", "device", "revoke"],
    &["mesh", "join"],
    &["mesh", "export"],
    &["status"],
    &["top"],
    &["device", "connections"],
    &["events"],
    &["doctor"],
    &["completion"],
    &["man"],
];

/// Names of the commands that the help of `compose` lists.
fn commands_of_compose(place: &Place) -> Vec<String> {
    let help = place.run(&["compose", "--help"]);
    let list = help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let first = |line: &str| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned);
    list.into_iter().flat_map(str::lines).filter_map(first).filter(|name| name != "help").collect()
}

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    let compose = commands_of_compose(&place);
    assert!(compose.len() > 20, "{compose:?}");
    let compose: Vec<[&str; 2]> = compose.iter().map(|name| ["compose", name.as_str()]).collect();
    for command in COMMANDS.into_iter().chain(compose.iter().map(|words| &words[..])) {
        // What follows some commands is not ours.
        let arguments = match command {
            ["compose", name] => vec!["compose", "help", name],
            _ => [command, &["--help"]].concat(),
        };
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
