//! `portway completion`: scripts for shells, which ask this program what could stand at the cursor.
//!
//! The scripts hold no knowledge: `portway complete-words WORDS...` walks the command line's own
//! description, and asks the daemon for names of instances and devices. It is silent when nobody
//! answers, and never takes longer than [`WAIT`].

use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use portway_config::{Caller, Paths};
use portway_control::{Client, Limits};
use portway_model::DeviceSpec;

use crate::cli::{self, CompleteWordsArgs, CompletionArgs, Shell, target};
use crate::failure::Outcome;
use crate::output::Out;
use crate::session::runtime;

/// Longest wait for the daemon: a shell's user waits too.
const WAIT: Duration = Duration::from_millis(500);

/// Most candidates that are printed.
const CANDIDATES_MAX: usize = 2000;

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Outcome {
    Out::new().text(match args.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    })
}

/// Bash breaks words at colons and equals signs: the line is split at blanks here, and of each
/// candidate only what follows the last break is given back.
const BASH: &str = r#"# portway completion for bash
_portway() {
    local line=${COMP_LINE:0:COMP_POINT} words current kept candidate
    read -ra words <<<"$line"
    current=${words[-1]}
    if [[ $line == *[[:blank:]] ]]; then
        words+=('')
        current=
    fi
    kept=${current%"${current##*[:=]}"}
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ $candidate == *[=/:] ]] && compopt -o nospace
        COMPREPLY+=("${candidate#"$kept"}")
    done < <("${words[0]}" complete-words -- "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _portway portway
"#;

/// Zsh script.
const ZSH: &str = r#"#compdef portway
_portway() {
    local -a candidates open
    candidates=("${(@f)$(${words[1]} complete-words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    candidates=(${candidates:#})
    open=(${(M)candidates:#*[=/:]})
    candidates=(${candidates:#*[=/:]})
    (( $#open )) && compadd -S '' -- $open
    (( $#candidates )) && compadd -- $candidates
    (( $#open + $#candidates )) || _files
}
if [[ $funcstack[1] == _portway ]]; then
    _portway "$@"
else
    compdef _portway portway
fi
"#;

/// Fish script.
const FISH: &str = r#"# portway completion for fish
function __portway_words
    # In quotes: no word yet is an empty one.
    set -l current (commandline -ct)
    set -l words (commandline -opc) "$current"
    $words[1] complete-words -- $words[2..-1] 2>/dev/null
end
complete -c portway -a '(__portway_words)'
"#;

/// Prints what could stand where the last of the words stands, one candidate on a line.
pub(crate) fn words(args: &CompleteWordsArgs) -> Outcome {
    let mut candidates = candidates(&args.words, &Daemon);
    candidates.truncate(CANDIDATES_MAX);
    let text: String = candidates.iter().map(|candidate| format!("{candidate}\n")).collect();
    Out::new().text(&text)
}

/// Where names come from.
trait Names {
    /// Instances, as they are typed.
    fn instances(&self) -> Vec<String>;
    /// Devices of an instance as it was typed.
    fn devices(&self, instance: &str) -> Vec<String>;
}

/// What could stand where the last of `words` stands.
fn candidates(words: &[String], names: &dyn Names) -> Vec<String> {
    let Some((current, before)) = words.split_last() else { return Vec::new() };
    let root = cli::command();
    let mut command = &root;
    let mut positionals: Vec<&str> = Vec::new();
    let mut awaited: Option<&Arg> = None;
    for word in before {
        if awaited.take().is_some() {
            continue;
        }
        if word.starts_with('-') && word.len() > 1 {
            awaited = option(command, word).filter(|arg| takes_value(arg) && !word.contains('='));
        } else if let Some(sub) = command.find_subcommand(word).filter(|_| positionals.is_empty()) {
            command = sub;
        } else {
            positionals.push(word);
        }
    }
    let found = match (awaited, current.starts_with('-')) {
        (Some(arg), _) => values(arg),
        (None, true) => options(command),
        (None, false) if command.has_subcommands() => {
            // A word that is no command has nothing behind it.
            let command = if positionals.is_empty() { command } else { return Vec::new() };
            let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            visible.map(|sub| sub.get_name().to_owned()).collect()
        }
        (None, false) => positional(command, &positionals, current, names),
    };
    let fits = |candidate: &String| candidate.starts_with(current.as_str()) && is_plain(candidate);
    found.into_iter().filter(fits).collect()
}

/// Whether no shell sees anything in `text` but itself. Shells put candidates into the command line as they are, and
/// names come from a server: a project may be called `x;reboot`.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || "._:/=@,+%-".contains(c))
}

fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or(word);
    command.get_arguments().find(|arg| {
        arg.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long))
            || arg.get_short().is_some_and(|short| name == format!("-{short}"))
    })
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn options(command: &Command) -> Vec<String> {
    let long = command.get_arguments().filter_map(|arg| arg.get_long().map(|long| format!("--{long}")));
    long.chain(["--help".to_owned()]).collect()
}

fn values(arg: &Arg) -> Vec<String> {
    arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
}

/// What stands at the next place: by the name that help gives it.
fn positional(command: &Command, given: &[&str], current: &str, names: &dyn Names) -> Vec<String> {
    let places: Vec<&Arg> = command.get_positionals().collect();
    let place = places.get(given.len()).or_else(|| {
        // The last one may take several words.
        places.last().filter(|last| matches!(last.get_action(), ArgAction::Append))
    });
    let Some(arg) = place else { return Vec::new() };
    let name = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match name.unwrap_or_default() {
        "INSTANCE" => names.instances(),
        "DEVICE" if command.get_name() != "add" => {
            given.first().map(|instance| names.devices(instance)).unwrap_or_default()
        }
        "KEY" => DeviceSpec::KEYS.iter().map(|key| key.name.to_owned()).collect(),
        "key=value" => pairs(current, &given[given.len().min(2)..]),
        "ARGUMENT" if given.is_empty() => {
            names.instances().into_iter().chain(pairs(current, given)).collect()
        }
        "ARGUMENT" => pairs(current, given),
        _ => values(arg),
    }
}

/// Keys that are not given yet, or the words that a key takes.
fn pairs(current: &str, given: &[&str]) -> Vec<String> {
    let taken = |name: &str| given.iter().any(|pair| pair.split('=').next() == Some(name));
    match current.split_once('=') {
        None => {
            let free = DeviceSpec::KEYS.iter().filter(|key| !taken(key.name));
            free.map(|key| format!("{}=", key.name)).collect()
        }
        Some((name, _)) => {
            let Some(key) = DeviceSpec::KEYS.iter().find(|key| key.name == name) else { return Vec::new() };
            let words: Vec<&str> = match key.value {
                "ADDRESS" => vec!["tcp:", "udp:", "unix:"],
                shape if shape.contains('|') => shape.split('|').collect(),
                _ => Vec::new(),
            };
            words.iter().map(|word| format!("{name}={word}")).collect()
        }
    }
}

/// Names that the daemon knows; none when it does not answer.
struct Daemon;

impl Daemon {
    fn ask<T>(question: impl AsyncFnOnce(Client) -> Option<T>) -> Option<T> {
        let paths = Paths::from_env(|name| std::env::var_os(name)).ok()?;
        paths.check(Caller::Client).ok()?;
        let client = Client::with_limits(paths.socket, Limits { ask: WAIT, ..Limits::default() });
        runtime().ok()?.block_on(question(client))
    }
}

impl Names for Daemon {
    fn instances(&self) -> Vec<String> {
        let known = Self::ask(async |client| client.instances().await.ok()).unwrap_or_default();
        let default = target::default_provider();
        known.iter().map(|known| target::short(&known.instance, default)).collect()
    }

    fn devices(&self, instance: &str) -> Vec<String> {
        let Ok(key) = target::instance(instance, None) else { return Vec::new() };
        let devices = Self::ask(async |client| client.devices(Some(&key)).await.ok()).unwrap_or_default();
        devices.iter().map(|device| device.name.to_string()).collect()
    }
}

#[cfg(test)]
mod tests;
