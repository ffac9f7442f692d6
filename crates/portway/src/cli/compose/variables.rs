//! `INCUS_COMPOSE_COMMAND_FLAG`: each flag of a command may be said by a variable, as with incus-compose. What removes
//! things, and what grants privileges, may not.

use clap::{Arg, Command};

/// What the names begin with.
const PREFIX: &str = "INCUS_COMPOSE";

/// Flags that are only ever typed.
const TYPED: [&str; 9] =
    ["allow", "dry-run", "force", "force-recreate", "images", "project", "remove-orphans", "rmi", "volumes"];

/// Whether any variable is set that could say a flag.
pub(crate) fn are_set() -> bool {
    std::env::vars_os().any(|(name, _)| name.to_str().is_some_and(|name| name.starts_with(PREFIX)))
}

/// The command line with variables for the flags of `compose`'s commands.
pub(crate) fn with_variables(line: Command) -> Command {
    line.mut_subcommand("compose", |compose| {
        let commands: Vec<String> =
            compose.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        commands.iter().fold(compose, |compose, name| {
            compose.mut_subcommand(name, |command| {
                let flags: Vec<(String, String)> = command
                    .get_arguments()
                    .filter(|flag| flag.get_env().is_none())
                    .filter_map(|flag| Some((flag.get_id().to_string(), flag.get_long()?.to_owned())))
                    .filter(|(_, long)| !TYPED.contains(&long.as_str()))
                    .collect();
                flags.into_iter().fold(command, |command, (id, long)| {
                    let variable = variable(name, &long);
                    command.mut_arg(id, |flag: Arg| flag.env(variable).hide_env(true))
                })
            })
        })
    })
}

/// The name of the variable for a flag. It lives as long as the process, as the command line does.
fn variable(command: &str, long: &str) -> &'static str {
    let name = format!("{PREFIX}_{command}_{long}").to_uppercase().replace('-', "_");
    Box::leak(name.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// Fails when a flag has no variable, or one that removes things has.
    #[test]
    fn flags_have_variables_and_those_that_remove_have_none() {
        let line = with_variables(Cli::command());
        let compose = line.find_subcommand("compose").expect("there");
        let variable = |command: &str, long: &str| {
            let command = compose.find_subcommand(command).expect(command);
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(long)).expect(long);
            flag.get_env().map(|name| name.to_string_lossy().into_owned())
        };
        assert_eq!(variable("up", "no-deps").as_deref(), Some("INCUS_COMPOSE_UP_NO_DEPS"));
        assert_eq!(variable("logs", "tail").as_deref(), Some("INCUS_COMPOSE_LOGS_TAIL"));
        assert_eq!(variable("build", "no-cache").as_deref(), Some("INCUS_COMPOSE_BUILD_NO_CACHE"));
        for (command, long) in
            [("up", "force-recreate"), ("down", "volumes"), ("up", "allow"), ("up", "dry-run")]
        {
            assert_eq!(variable(command, long), None, "{command} --{long}");
        }
        line.debug_assert();
    }
}
