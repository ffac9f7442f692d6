//! `portway completion`: completion scripts, made from the command line's own description.

use clap_complete::{Shell as Target, generate};

use crate::cli::{self, CompletionArgs, Shell};
use crate::failure::Outcome;
use crate::output::Out;

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Outcome {
    Out::new().text(&script(args.shell))
}

fn script(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => Target::Bash,
        Shell::Zsh => Target::Zsh,
        Shell::Fish => Target::Fish,
    };
    // Into memory: the generator panics when its output fails.
    let mut script = Vec::new();
    generate(shell, &mut cli::command(), "portway", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["device", "doctor", "adopt", "--format"] {
                let word = if shell == Shell::Fish { word.trim_start_matches("--") } else { word };
                assert!(script.contains(word), "{shell:?} does not know {word}");
            }
        }
    }
}
