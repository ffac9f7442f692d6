//! What a service runs: fields `name=value`, each with a zero byte after it, so that a value is any text a program
//! can be given.

use std::time::Duration;

/// When the program is started again after its end, by the service's first process itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Again {
    /// Never.
    #[default]
    No,
    /// When its status is not 0; so many times at most.
    OnFailure(Option<u32>),
    /// However it ends, unless it was asked to.
    Always,
}

/// What a service runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// The program and its arguments; it is looked for in `PATH` when it has no slash.
    pub args: Vec<Vec<u8>>,
    /// `NAME=VALUE`, over what the instance gives.
    pub env: Vec<Vec<u8>>,
    /// Its folder; `/` when there is none.
    pub cwd: Vec<u8>,
    /// `USER[:GROUP]`, names or numbers; root when there is none.
    pub user: Vec<u8>,
    /// Further groups, names or numbers.
    pub groups: Vec<Vec<u8>>,
    /// Number of the signal that asks it to end; SIGTERM when there is none.
    pub stop: Option<u8>,
    /// Whether it runs on a terminal.
    pub terminal: bool,
    /// Whether it reads what those say who attach to it; else there is nothing to be read.
    pub input: bool,
    /// When it is started again.
    pub again: Again,
    /// Before each start after the first, in whole milliseconds; a time that grows from start to start when there is none.
    pub delay: Option<Duration>,
    /// Whether program, user and folder are as the image has them where they are not said here. Whoever writes it for the
    /// first process has looked, and says all of it ([`Spec::over`]).
    pub of_image: bool,
}

/// Why bytes are no [`Spec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The last field has no end.
    #[error("it is cut short")]
    Short,
    /// A field nobody knows, or one that has no value.
    #[error("a field that is none")]
    Field,
    /// The number is none, or no signal.
    #[error("a signal that is none")]
    Signal,
    /// When it is started again is said in words nobody knows.
    #[error("a restart that is none")]
    Again,
    /// There is nothing to run.
    #[error("no program")]
    NoProgram,
    /// What is not said is as an image has it that nobody has looked at.
    #[error("the rest is its image's")]
    OfImage,
    /// A value holds a zero byte, which no program can be given.
    #[error("a value with a zero byte")]
    Zero,
}

/// Greatest number of a signal.
const SIGNAL_MAX: u8 = 64;

impl Spec {
    /// As it is kept.
    ///
    /// # Errors
    /// [`SpecError::Zero`], [`SpecError::NoProgram`].
    pub fn write(&self) -> Result<Vec<u8>, SpecError> {
        let mut fields: Vec<(&str, Vec<u8>)> = Vec::new();
        fields.extend(self.args.iter().map(|arg| ("arg", arg.clone())));
        fields.extend(self.env.iter().map(|entry| ("env", entry.clone())));
        fields.extend(self.groups.iter().map(|group| ("group", group.clone())));
        for (name, value) in [("cwd", &self.cwd), ("user", &self.user)] {
            if !value.is_empty() {
                fields.push((name, value.clone()));
            }
        }
        if let Some(signal) = self.stop {
            fields.push(("stop", signal.to_string().into_bytes()));
        }
        if self.terminal {
            fields.push(("terminal", b"1".to_vec()));
        }
        if self.input {
            fields.push(("input", b"1".to_vec()));
        }
        if let Some(word) = self.again.word() {
            fields.push(("again", word.into_bytes()));
        }
        if let Some(delay) = self.delay {
            fields.push(("delay", delay.as_millis().to_string().into_bytes()));
        }
        if self.of_image {
            fields.push(("image", b"1".to_vec()));
        }
        let mut out = Vec::new();
        for (name, value) in fields {
            if value.contains(&0) {
                return Err(SpecError::Zero);
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(&value);
            out.push(0);
        }
        Spec::draft(&out).map(|_| out)
    }

    /// The reverse, of what says all.
    ///
    /// # Errors
    /// [`SpecError`], any.
    pub fn read(bytes: &[u8]) -> Result<Self, SpecError> {
        Spec::draft(bytes).and_then(|spec| if spec.of_image { Err(SpecError::OfImage) } else { Ok(spec) })
    }

    /// The same, also of what says no more than differs from the image.
    ///
    /// # Errors
    /// [`SpecError`], any but [`SpecError::OfImage`].
    pub fn draft(bytes: &[u8]) -> Result<Self, SpecError> {
        let mut spec = Spec::default();
        let fields = match bytes.split_last() {
            None => return Err(SpecError::NoProgram),
            Some((0, fields)) => fields,
            Some(_) => return Err(SpecError::Short),
        };
        for field in fields.split(|byte| *byte == 0) {
            let at = field.iter().position(|byte| *byte == b'=').ok_or(SpecError::Field)?;
            let value = field[at + 1..].to_vec();
            match &field[..at] {
                b"arg" => spec.args.push(value),
                b"env" => spec.env.push(value),
                b"group" => spec.groups.push(value),
                b"cwd" => spec.cwd = value,
                b"user" => spec.user = value,
                b"stop" => {
                    let number = str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    spec.stop =
                        Some(number.filter(|n| (1..=SIGNAL_MAX).contains(n)).ok_or(SpecError::Signal)?);
                }
                b"terminal" => spec.terminal = value == b"1",
                b"input" => spec.input = value == b"1",
                b"again" => spec.again = Again::of(&value).ok_or(SpecError::Again)?,
                b"delay" => {
                    let number = str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    spec.delay = Some(number.map(Duration::from_millis).ok_or(SpecError::Again)?);
                }
                b"image" => spec.of_image = value == b"1",
                _ => return Err(SpecError::Field),
            }
        }
        match spec.args.first() {
            Some(program) if program.is_empty() => Err(SpecError::NoProgram),
            None if !spec.of_image => Err(SpecError::NoProgram),
            _ => Ok(spec),
        }
    }

    /// All of it: what is not said here is as `image` has it.
    #[must_use]
    pub fn over(self, image: Spec) -> Self {
        let or = |own: Vec<u8>, image: Vec<u8>| if own.is_empty() { image } else { own };
        Self {
            args: if self.args.is_empty() { image.args } else { self.args },
            cwd: or(self.cwd, image.cwd),
            user: or(self.user, image.user),
            of_image: false,
            ..self
        }
    }
}

impl Again {
    /// As it is kept; nothing for never.
    fn word(self) -> Option<String> {
        match self {
            Again::No => None,
            Again::Always => Some("always".to_owned()),
            Again::OnFailure(None) => Some("on-failure".to_owned()),
            Again::OnFailure(Some(most)) => Some(format!("on-failure:{most}")),
        }
    }

    fn of(word: &[u8]) -> Option<Self> {
        match str::from_utf8(word).ok()? {
            "always" => Some(Again::Always),
            "on-failure" => Some(Again::OnFailure(None)),
            word => Some(Again::OnFailure(Some(word.strip_prefix("on-failure:")?.parse().ok()?))),
        }
    }

    /// Whether a program that ended with `status` is started again when it has been so many times already.
    #[must_use]
    pub fn after(self, status: u8, times: u32) -> bool {
        match self {
            Again::No => false,
            Again::Always => true,
            Again::OnFailure(most) => status != 0 && most.is_none_or(|most| times < most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(of: &[&str]) -> Vec<Vec<u8>> {
        of.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_service_is_read_as_it_was_written() {
        let full = Spec {
            args: bytes(&["sh", "", "-c", "echo \"$A\"\n=x"]),
            env: bytes(&["A=b\nc", "B="]),
            cwd: b"/srv".to_vec(),
            user: b"bob:29".to_vec(),
            groups: bytes(&["audio", "7"]),
            stop: Some(2),
            terminal: true,
            input: true,
            again: Again::OnFailure(Some(3)),
            delay: Some(Duration::from_millis(1500)),
            of_image: false,
        };
        let again = |again| Spec { args: bytes(&["true"]), again, ..Spec::default() };
        for spec in [full, again(Again::No), again(Again::Always), again(Again::OnFailure(None))] {
            assert_eq!(Spec::read(&spec.write().expect("it can be written")), Ok(spec));
        }
    }

    /// Fails when a part of the image's wins over what is said, or half of it is run.
    #[test]
    fn what_is_not_said_is_as_the_image_has_it() {
        let image = Spec {
            args: bytes(&["a", "b"]),
            cwd: b"/srv".to_vec(),
            user: b"5:7".to_vec(),
            ..Spec::default()
        };
        let own = Spec { env: bytes(&["A=1"]), stop: Some(2), of_image: true, ..Spec::default() };
        let written = own.write().expect("it can be written");
        assert_eq!((Spec::draft(&written), Spec::read(&written)), (Ok(own.clone()), Err(SpecError::OfImage)));
        let both = own.clone().over(image.clone());
        let all = Spec { env: bytes(&["A=1"]), stop: Some(2), ..image.clone() };
        assert_eq!(both, all);
        let says = Spec { args: bytes(&["x"]), cwd: b"/".to_vec(), user: b"bob".to_vec(), ..own };
        assert_eq!(says.clone().over(image), Spec { of_image: false, ..says });
        assert_eq!(
            Spec { of_image: true, args: bytes(&[""]), ..Spec::default() }.write(),
            Err(SpecError::NoProgram)
        );
    }

    #[test]
    fn what_is_none_is_refused() {
        for (text, error) in [
            ("", SpecError::NoProgram),
            ("cwd=/\0", SpecError::NoProgram),
            ("arg=\0", SpecError::NoProgram),
            ("arg=a", SpecError::Short),
            ("arg=a\0x=\0", SpecError::Field),
            ("arg=a\0\0", SpecError::Field),
            ("arg=a\0stop=0\0", SpecError::Signal),
            ("arg=a\0stop=65\0", SpecError::Signal),
            ("arg=a\0again=on-failure:\0", SpecError::Again),
            ("arg=a\0again=sometimes\0", SpecError::Again),
            ("arg=a\0delay=-1\0", SpecError::Again),
        ] {
            assert_eq!(Spec::read(text.as_bytes()), Err(error), "{text:?}");
        }
        let zero = Spec { args: bytes(&["a\0b"]), ..Spec::default() };
        assert_eq!(zero.write(), Err(SpecError::Zero));
        assert_eq!(Spec::default().write(), Err(SpecError::NoProgram));
    }

    /// Every policy, status and count.
    #[test]
    fn a_program_is_started_again_as_its_policy_says() {
        for (again, status, times, starts) in [
            (Again::No, 1, 0, false),
            (Again::Always, 0, 99, true),
            (Again::Always, 1, 99, true),
            (Again::OnFailure(None), 0, 0, false),
            (Again::OnFailure(None), 1, 99, true),
            (Again::OnFailure(Some(2)), 0, 0, false),
            (Again::OnFailure(Some(2)), 1, 1, true),
            (Again::OnFailure(Some(2)), 1, 2, false),
            (Again::OnFailure(Some(0)), 1, 0, false),
        ] {
            assert_eq!(again.after(status, times), starts, "{again:?} {status} {times}");
        }
    }
}
