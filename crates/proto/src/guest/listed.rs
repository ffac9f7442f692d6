//! A line about one session that stays, said by the guest to who asks for all of an instance's.
//!
//! Fields are divided by tabs. What is in them is the instance's, and it may say anything: who reads a line takes it
//! for what the user of that number says of himself.

use super::{HeldState, Size, TITLE_MAX_BYTES, is_held_name};

/// Longest command that is told, bytes.
pub const COMMAND_MAX_BYTES: usize = 256;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose it is.
    pub uid: u32,
    /// Its name.
    pub name: String,
    /// What it says.
    pub says: Says,
}

/// What a session says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// What it is.
    State {
        /// By its holder.
        state: HeldState,
        /// What runs in front on its terminal; without control characters.
        command: String,
    },
    /// Its holder speaks this version.
    Other(u16),
    /// Nothing.
    Silence,
}

impl Listed {
    /// The line, without its end.
    #[must_use]
    pub fn write(&self) -> String {
        let Self { uid, name, says } = self;
        match says {
            Says::State { state, command } => {
                let HeldState { pid, viewers, size, age_secs, title } = state;
                let Size { columns, rows, .. } = size;
                format!(
                    "{uid}\t{name}\tstate\t{pid}\t{viewers}\t{columns}\t{rows}\t{age_secs}\t{title}\t{command}"
                )
            }
            Says::Other(version) => format!("{uid}\t{name}\tother\t{version}"),
            Says::Silence => format!("{uid}\t{name}\tsilence"),
        }
    }

    /// Reads a line without its end; `None` when it is none.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut next = || fields.next();
        let uid = number(next()?)?;
        let name = next().filter(|name| is_held_name(name.as_bytes()))?.to_owned();
        let says = match next()? {
            "state" => {
                let (pid, viewers) = (number(next()?)?, number(next()?)?);
                let size = Size { columns: number(next()?)?, rows: number(next()?)?, ..Size::default() };
                let age_secs = number(next()?)?;
                let title = plain(next()?, TITLE_MAX_BYTES)?;
                let command = plain(next()?, COMMAND_MAX_BYTES)?;
                Says::State { state: HeldState { pid, viewers, size, age_secs, title }, command }
            }
            "other" => Says::Other(number(next()?)?),
            "silence" => Says::Silence,
            _ => return None,
        };
        next().is_none().then_some(Self { uid, name, says })
    }
}

/// Digits alone.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn plain(text: &str, most_bytes: usize) -> Option<String> {
    let is_plain = text.len() <= most_bytes && !text.chars().any(char::is_control);
    is_plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let size = Size { columns: 80, rows: 24, ..Size::default() };
        let state = HeldState { pid: 7, viewers: 2, size, age_secs: 99, title: "vi \u{e4}".to_owned() };
        for says in [
            Says::State { state: state.clone(), command: "vi notes".to_owned() },
            Says::State { state: HeldState { title: String::new(), ..state }, command: String::new() },
            Says::Other(2),
            Says::Silence,
        ] {
            let listed = Listed { uid: 1000, name: "work".to_owned(), says };
            assert_eq!(Listed::read(&listed.write()), Some(listed));
        }
    }

    /// Fails when an instance's words reach a terminal of the host, or are taken for another field.
    #[test]
    fn what_is_no_line_is_none() {
        for line in [
            "",
            "x\twork\tsilence",
            "+1\twork\tsilence",
            "1\t../x\tsilence",
            "1\twork\tsilence\tmore",
            "1\twork\tother\t65536",
            "1\twork\tstate\t7\t2\t80\t24\t99\t\u{1b}[2J\tvi",
            "1\twork\tstate\t7\t2\t80\t24\t99\tvi\ta\u{9b}b",
            "1\twork\tstate\t7\t2\t80\t24\t99\tvi",
        ] {
            assert_eq!(Listed::read(line), None, "{line:?}");
        }
        let long = format!("1\twork\tstate\t7\t2\t80\t24\t99\t\t{}", "x".repeat(COMMAND_MAX_BYTES + 1));
        assert_eq!(Listed::read(&long), None);
    }
}
