//! Options of a new instance: what stands behind each `+` of a create login.

use super::error::{LoginErrorKind, LoginWarning, quote};
use super::percent::{Coding, decode};

/// What a new instance is made of. What is not given is up to the gateway's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateOptions {
    /// Alias of the image; it has a slash in it.
    pub image: Option<String>,
    /// Memory, GiB; 0 is no limit.
    pub memory_gib: Option<u32>,
    /// Processors; 0 is no limit.
    pub cpu_count: Option<u32>,
    /// Root disk, GiB; 0 is no limit.
    pub disk_gib: Option<u32>,
    /// Containers can run in it.
    pub nesting: bool,
    /// Its root is the host's.
    pub privileged: bool,
    /// A virtual machine.
    pub vm: bool,
    /// Profiles of the gateway's `create-config.yaml`, in the order in which they apply.
    pub profiles: Vec<String>,
}

/// Which options a dialect knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profiles {
    /// `%NAME,NAME` among them.
    Known,
    /// Without it.
    Unknown,
}

/// What an option says besides what [`CreateOptions`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// The instance is to go when it stops.
    Ephemeral,
}

/// An option that cannot be read: where in it, and why.
type Fault = (usize, LoginErrorKind);

impl CreateOptions {
    /// Takes one option in.
    pub(super) fn take(
        &mut self,
        option: &str,
        coding: Coding,
        profiles: Profiles,
        warnings: &mut Vec<LoginWarning>,
    ) -> Result<Said, Fault> {
        if option.is_empty() {
            return Err((0, LoginErrorKind::Empty("create option")));
        }
        // A leading `%` is the sign of profiles here as it is that of a persistent session in front.
        if let (Some(names), Profiles::Known) = (option.strip_prefix('%'), profiles) {
            return self.take_profiles(names, coding).map(|()| Said::Nothing);
        }
        let text = decode(option, coding)?;
        if text.contains(['/', ':']) {
            if let Some(c) = text.chars().next().filter(|c| !c.is_alphanumeric()) {
                return Err((0, LoginErrorKind::Character { found: quote(&c.to_string()), what: "image" }));
            }
            replace(&mut self.image, text, warnings, |image| quote(image));
            return Ok(Said::Nothing);
        }
        match text.as_str() {
            "v" | "vm" => self.vm = true,
            word if is_short_for(word, &["nesting", "nested"]) => self.nesting = true,
            word if is_short_for(word, &["privileged"]) => self.privileged = true,
            word if is_short_for(word, &["ephemeral"]) => return Ok(Said::Ephemeral),
            word => self.take_number(word, warnings)?,
        }
        Ok(Said::Nothing)
    }

    fn take_profiles(&mut self, names: &str, coding: Coding) -> Result<(), Fault> {
        let mut start = 1;
        for name in names.split(',') {
            let decoded = decode(name, coding).map_err(|(position, kind)| (start + position, kind))?;
            if decoded.is_empty() {
                return Err((start, LoginErrorKind::ProfileEmpty));
            }
            self.profiles.push(decoded);
            start += name.len() + 1;
        }
        Ok(())
    }

    fn take_number(&mut self, word: &str, warnings: &mut Vec<LoginWarning>) -> Result<(), Fault> {
        let unknown = || (0, LoginErrorKind::OptionUnknown(quote(word)));
        let Some((letter, digits)) = word.split_at_checked(1) else { return Err(unknown()) };
        let slot = match letter {
            "m" => &mut self.memory_gib,
            "c" => &mut self.cpu_count,
            "d" => &mut self.disk_gib,
            _ => return Err(unknown()),
        };
        // A word that only begins like one is a word: `debian`.
        if !digits.is_empty() && !digits.contains(|c: char| c.is_ascii_digit()) {
            return Err(unknown());
        }
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = if plain { digits.parse().ok() } else { None };
        let Some(number) = number else {
            return Err((1.min(digits.len()), LoginErrorKind::OptionNumber(quote(word))));
        };
        replace(slot, number, warnings, |number| quote(&format!("{letter}{number}")));
        Ok(())
    }

    /// What of it means nothing for a virtual machine.
    pub(super) fn odd_ones(&self) -> impl Iterator<Item = LoginWarning> {
        let given = [("nest", self.vm && self.nesting), ("priv", self.vm && self.privileged)];
        given.into_iter().filter(|(_, odd)| *odd).map(|(word, _)| LoginWarning::OptionOfContainers(word))
    }
}

/// Whether `word` is the first letter of one of `words`, or its first four or more.
fn is_short_for(word: &str, words: &[&str]) -> bool {
    (word.len() == 1 || word.len() >= 4) && words.iter().any(|long| long.starts_with(word))
}

fn replace<T: PartialEq>(
    slot: &mut Option<T>,
    value: T,
    warnings: &mut Vec<LoginWarning>,
    show: impl Fn(&T) -> String,
) {
    if let Some(before) = slot.as_ref().filter(|before| **before != value) {
        warnings.push(LoginWarning::OptionReplaced { after: show(&value), before: show(before) });
    }
    *slot = Some(value);
}
