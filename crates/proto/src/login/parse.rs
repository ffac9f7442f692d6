//! Cutting a login into its parts, in an order that names decide: no instance can hold an `@`, so the last one is the
//! sign; what stands behind it is cut at the host user and then at the project.

use std::str::FromStr;

use portway_model::{InstanceKey, InstanceName, ProjectName, Provider, RefError};

use super::error::{LoginError, LoginErrorKind, LoginWarning, NameFault, quote};
use super::options::{CreateOptions, Profiles, Said};
use super::percent::{AT_ONCE, AT_TWICE, Coding, decode};
use super::{Command, Create, Dialect, HostUser, Keep, LOGIN_MAX_BYTES, Login, Place, Session, Wish};

const INSTANCE: &str = "instance name";
const PROJECT: &str = "project name";
const HOST_USER: &str = "host user";

/// Reads a login.
pub(super) fn login(text: &str, dialect: Dialect) -> Result<Login, LoginError> {
    let whole = Part { whole: text, start: 0, end: text.len() };
    if text.len() > LOGIN_MAX_BYTES {
        let kind = LoginErrorKind::TooLong { what: "login", max_bytes: LOGIN_MAX_BYTES };
        return Err(LoginError::new(text, LOGIN_MAX_BYTES, kind));
    }
    if let Some((position, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(whole.error(position, LoginErrorKind::Control(quote(&c.to_string()))));
    }
    let mut parser = Parser { dialect, warnings: Vec::new() };
    let wish = parser.wish(whole, Commands::Allowed)?;
    Ok(Login { wish, warnings: parser.warnings })
}

/// A piece of the login that knows its place in it.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    whole: &'a str,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    fn text(self) -> &'a str {
        self.whole.get(self.start..self.end).unwrap_or_default()
    }

    /// An error at byte `position` of this part.
    fn error(self, position: usize, kind: LoginErrorKind) -> LoginError {
        LoginError::new(self.whole, self.start + position, kind)
    }

    /// What stands before byte `position` of this part, and what stands `len` bytes after it.
    fn cut(self, position: usize, len: usize) -> (Self, Self) {
        let middle = self.start + position;
        (Self { end: middle, ..self }, Self { start: (middle + len).min(self.end), ..self })
    }

    fn cut_first(self, sign: char) -> Option<(Self, Self)> {
        self.text().find(sign).map(|position| self.cut(position, sign.len_utf8()))
    }

    fn strip(self, prefix: &str) -> Option<Self> {
        self.text().starts_with(prefix).then(|| self.cut(0, prefix.len()).1)
    }

    fn decode(self, coding: Coding) -> Result<String, LoginError> {
        decode(self.text(), coding).map_err(|(position, kind)| self.error(position, kind))
    }
}

/// Whether a command may stand here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commands {
    Allowed,
    Refused,
}

/// A word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Shell,
    Remove { force: bool },
    Explain,
}

impl Verb {
    fn find(word: &str) -> Option<(Self, &'static str)> {
        Some(match word {
            "shell" => (Self::Shell, "shell"),
            "rm" => (Self::Remove { force: false }, "rm"),
            "remove" => (Self::Remove { force: false }, "remove"),
            "rm-f" => (Self::Remove { force: true }, "rm-f"),
            "remove-force" => (Self::Remove { force: true }, "remove-force"),
            "explain" => (Self::Explain, "explain"),
            _ => return None,
        })
    }
}

struct Parser {
    dialect: Dialect,
    warnings: Vec<LoginWarning>,
}

impl Parser {
    const fn coding(&self) -> Coding {
        match self.dialect {
            Dialect::Auto => Coding::Every,
            Dialect::V010 => Coding::At,
            Dialect::V07 => Coding::Nothing,
        }
    }

    fn wish(&mut self, part: Part<'_>, commands: Commands) -> Result<Wish, LoginError> {
        if self.dialect == Dialect::Auto
            && let Some(wish) = self.by_word(part, commands)
        {
            return wish;
        }
        let (_, rest) = part.cut(0, 1);
        match (part.text().chars().next(), self.dialect) {
            (Some('+'), _) => self.create(rest, false),
            (Some('~'), _) => self.create(rest, true),
            (Some('/'), Dialect::V010) => self.command(rest, &["/"], commands),
            (Some('/'), Dialect::Auto) => {
                let is_command = rest.text().contains('/') || Verb::find(rest.text()).is_some();
                if is_command || self.shell_of(rest).is_some() {
                    return self.command(rest, &["/"], commands);
                }
                self.kept(rest)
            }
            (Some('%'), Dialect::Auto) if rest.text() == "shell" || self.shell_of(rest).is_some() => {
                self.command(rest, &[], commands)
            }
            (Some('%'), Dialect::Auto | Dialect::V010) | (Some('/'), Dialect::V07) => self.kept(rest),
            (Some('%'), Dialect::V07) if !rest.text().contains(['@', ':']) => {
                if rest.text() != "shell" {
                    let kind = LoginErrorKind::CommandUnknown(quote(rest.text()));
                    return Err(rest.error(0, kind));
                }
                self.command(rest, &[], commands)
            }
            (Some(_) | None, _) => self.session(part, Keep::No).map(Wish::Session),
        }
    }

    /// A login whose sign is a word.
    fn by_word(&mut self, part: Part<'_>, commands: Commands) -> Option<Result<Wish, LoginError>> {
        if let Some(rest) = part.strip("new=") {
            return Some(self.create(rest, false));
        }
        if let Some(rest) = part.strip("tmp=") {
            return Some(self.create(rest, true));
        }
        if let Some(rest) = part.strip("cmd=") {
            // By its sign, `/shell~adm` is a session to one of the dialects.
            let user = rest.strip("shell").and_then(|user| user.strip("~").or_else(|| user.strip("+")));
            if let Some(user) = user.filter(|_| commands == Commands::Allowed) {
                let host_user = self.name(user, HOST_USER);
                return Some(host_user.map(|host_user| Wish::Command(Command::Shell { host_user })));
            }
            return Some(self.command(rest, &[",", "/", "%2F", "%2f"], commands));
        }
        let rest = part.strip("keep=")?;
        let Some((name, place)) = rest.cut_first(',') else { return Some(self.kept(rest)) };
        let named = self.name(name, "session name");
        Some(named.and_then(|name| self.session(place, Keep::Named(name)).map(Wish::Session)))
    }

    fn kept(&mut self, part: Part<'_>) -> Result<Wish, LoginError> {
        let session = self.session(part, Keep::Shared)?;
        let instance = session.place.instance.as_str();
        if Verb::find(instance).is_some() && part.text() != instance {
            self.warnings.push(LoginWarning::NotCommand(quote(instance)));
        }
        Ok(Wish::Session(session))
    }

    /// A command; its target follows the first of `signs`.
    fn command(&mut self, part: Part<'_>, signs: &[&str], commands: Commands) -> Result<Wish, LoginError> {
        if commands == Commands::Refused {
            return Err(part.error(0, LoginErrorKind::CommandNested));
        }
        let found = signs.iter().filter_map(|sign| Some((part.text().find(sign)?, sign.len()))).min();
        let (word, target) = match found {
            Some((position, len)) => {
                let (word, target) = part.cut(position, len);
                (word, Some(target))
            }
            None => (part, None),
        };
        let (word, host_user) = match self.shell_of(word).filter(|_| target.is_none()) {
            Some((word, host_user)) => (word, Some(host_user)),
            None => (word, None),
        };
        let Some((verb, name)) = Verb::find(word.text()) else {
            return Err(word.error(0, LoginErrorKind::CommandUnknown(quote(word.text()))));
        };
        let command = match (verb, target) {
            (Verb::Shell, None) => Command::Shell { host_user: self.host_user(host_user)? },
            (Verb::Shell, Some(target)) => {
                return Err(target.error(0, LoginErrorKind::CommandAlone(name)));
            }
            (Verb::Remove { .. } | Verb::Explain, None) => {
                return Err(word.error(word.text().len(), LoginErrorKind::CommandTarget(name)));
            }
            (Verb::Remove { force }, Some(target)) => {
                let (place, host_user) = self.place_and_host_user(target)?;
                if let Some(host_user) = host_user.filter(|_| self.dialect != Dialect::Auto) {
                    return Err(host_user.error(0, LoginErrorKind::CommandHostUser(name)));
                }
                Command::Remove { place, force, host_user: self.host_user(host_user)? }
            }
            (Verb::Explain, Some(target)) => {
                Command::Explain(Box::new(self.wish(target, Commands::Refused)?))
            }
        };
        Ok(Wish::Command(command))
    }

    fn create(&mut self, part: Part<'_>, ephemeral: bool) -> Result<Wish, LoginError> {
        let (body, host_user) = match part.cut_first('~').filter(|_| self.dialect != Dialect::V07) {
            Some((body, host_user)) => (body, Some(host_user)),
            None => (part, None),
        };
        let (place, options) = match body.cut_first('+') {
            Some((place, options)) => (place, Some(options)),
            None => (body, None),
        };
        let place = match self.find_at(place) {
            Some((user, instance)) => self.place(Some(user), instance)?,
            None => self.place(None, place)?,
        };
        let mut create =
            Create { place, ephemeral, options: CreateOptions::default(), host_user: HostUser::default() };
        let mut rest = options;
        while let Some(options) = rest {
            let (option, next) = match options.cut_first('+') {
                Some((option, next)) => (option, Some(next)),
                None => (options, None),
            };
            rest = next;
            self.take_option(&mut create, option)?;
        }
        self.warnings.extend(create.options.odd_ones());
        create.host_user = self.host_user(host_user)?;
        Ok(Wish::Create(create))
    }

    fn take_option(&mut self, create: &mut Create, option: Part<'_>) -> Result<(), LoginError> {
        let profiles = match self.dialect {
            Dialect::V07 => Profiles::Unknown,
            Dialect::Auto | Dialect::V010 => Profiles::Known,
        };
        let taken = create.options.take(option.text(), self.coding(), profiles, &mut self.warnings);
        match taken.map_err(|(position, kind)| option.error(position, kind))? {
            Said::Nothing => {}
            Said::Ephemeral => create.ephemeral = true,
        }
        Ok(())
    }

    fn session(&mut self, part: Part<'_>, keep: Keep) -> Result<Session, LoginError> {
        let (place, host_user) = self.place_and_host_user(part)?;
        Ok(Session { place, keep, host_user: self.host_user(host_user)? })
    }

    fn host_user(&self, part: Option<Part<'_>>) -> Result<HostUser, LoginError> {
        part.map_or_else(|| Ok(HostUser::default()), |part| self.name(part, HOST_USER))
    }

    /// The command `shell` and its host user, which the other dialects do not have.
    fn shell_of<'a>(&self, part: Part<'a>) -> Option<(Part<'a>, Part<'a>)> {
        let cut = ['~', '+'].into_iter().find_map(|sign| part.cut_first(sign));
        cut.filter(|(word, _)| self.dialect == Dialect::Auto && word.text() == "shell")
    }

    /// The place, and the part of the host user, if there is one.
    fn place_and_host_user<'a>(&mut self, part: Part<'a>) -> Result<(Place, Option<Part<'a>>), LoginError> {
        let (user, rest) = match self.find_at(part) {
            Some((user, rest)) => (Some(user), rest),
            None => (None, part),
        };
        let signs: &[char] = if self.dialect == Dialect::V07 { &['+'] } else { &['~', '+'] };
        let cut = signs.iter().find_map(|sign| rest.cut_first(*sign));
        let (instance, host_user) = match cut {
            Some((instance, host_user)) => (instance, Some(host_user)),
            None => (rest, None),
        };
        let place = self.place(user, instance)?;
        if let Some(sign) = user.and_then(|user| user.text().chars().find(|c| signs.contains(c))) {
            let user = quote(place.instance_user.as_str());
            self.warnings.push(LoginWarning::SignInUser { sign, user });
        }
        Ok((place, host_user))
    }

    /// What stands before and behind the `@`: the last one, or where there is none, the last encoded one.
    fn find_at<'a>(&self, part: Part<'a>) -> Option<(Part<'a>, Part<'a>)> {
        let text = part.text();
        let encoded = || {
            let all = [AT_ONCE, AT_TWICE].into_iter().filter(|_| self.coding() != Coding::Nothing);
            all.filter_map(|sign| Some((text.rfind(sign)?, sign.len()))).max()
        };
        let (position, len) = text.rfind('@').map(|position| (position, 1)).or_else(encoded)?;
        Some(part.cut(position, len))
    }

    /// The place of `[remote:][user@]instance[.project]`, cut at its `@`.
    fn place(&mut self, user: Option<Part<'_>>, rest: Part<'_>) -> Result<Place, LoginError> {
        let (remote, user, rest) = match user {
            Some(user) => match self.find_colon(user, user.text().len()) {
                Some((remote, user)) => (Some(remote), Some(user), rest),
                None => (None, Some(user), rest),
            },
            None => {
                // Behind the first dot is the project, which may hold an encoded colon.
                let name_bytes = rest.text().find('.').unwrap_or(rest.text().len());
                match self.find_colon(rest, name_bytes) {
                    Some((remote, rest)) => (Some(remote), None, rest),
                    None => (None, None, rest),
                }
            }
        };
        let (instance, project) = match rest.cut_first('.') {
            Some((instance, project)) => (instance, Some(project)),
            None => (rest, None),
        };
        Ok(Place {
            remote: remote.map(|remote| self.name(remote, "remote")).transpose()?,
            instance_user: match user {
                Some(user) => self.name(user, "instance user")?,
                None => Default::default(),
            },
            instance: self.instance(instance)?,
            project: match project {
                Some(project) => self.project(project)?,
                None => ProjectName::default(),
            },
        })
    }

    /// What stands before and behind the `:`: the first one, or where there is none, the first encoded one in the first
    /// `encoded_bytes`.
    fn find_colon<'a>(&self, part: Part<'a>, encoded_bytes: usize) -> Option<(Part<'a>, Part<'a>)> {
        if let Some(position) = part.text().find(':') {
            return Some(part.cut(position, 1));
        }
        let head = part.text().get(..encoded_bytes).filter(|_| self.coding() == Coding::Every)?;
        let position = ["%3A", "%3a"].into_iter().filter_map(|sign| head.find(sign)).min()?;
        Some(part.cut(position, 3))
    }

    fn instance(&mut self, part: Part<'_>) -> Result<InstanceName, LoginError> {
        let text = self.text(part, INSTANCE)?;
        if text.contains(':') {
            let position = part.text().find(':').unwrap_or_default();
            let kind = LoginErrorKind::Character { found: quote(":"), what: INSTANCE };
            return Err(part.error(position, kind));
        }
        let name: InstanceName = text.parse().map_err(|error| of_model(part, &text, error))?;
        if let Err(error) = InstanceKey::new(Provider::Incus, None, &text) {
            let why = error.kind.to_string();
            self.warnings.push(LoginWarning::InstanceImpossible { found: quote(&text), why });
        }
        Ok(name)
    }

    fn project(&self, part: Part<'_>) -> Result<ProjectName, LoginError> {
        let text = self.text(part, PROJECT)?;
        text.parse().map_err(|error| of_model(part, &text, error))
    }

    fn name<T: FromStr<Err = NameFault>>(&self, part: Part<'_>, what: &'static str) -> Result<T, LoginError> {
        let text = self.text(part, what)?;
        text.parse().map_err(|fault| match fault {
            NameFault::Empty => part.error(0, LoginErrorKind::Empty(what)),
            NameFault::Character(c) => {
                let position = part.text().find(c).unwrap_or_default();
                part.error(position, LoginErrorKind::Character { found: quote(&c.to_string()), what })
            }
            NameFault::TooLong => {
                let max_bytes = super::NAME_MAX_BYTES;
                part.error(0, LoginErrorKind::TooLong { what, max_bytes })
            }
            NameFault::Reserved => part.error(0, LoginErrorKind::Reserved { found: quote(&text), what }),
        })
    }

    /// The text of a part, which is not empty.
    fn text(&self, part: Part<'_>, what: &'static str) -> Result<String, LoginError> {
        if part.text().is_empty() {
            return Err(part.error(0, LoginErrorKind::Empty(what)));
        }
        part.decode(self.coding())
    }
}

/// What the model finds in the decoded text, at the place in the login.
fn of_model(part: Part<'_>, text: &str, error: RefError) -> LoginError {
    let position = if text == part.text() { error.position } else { 0 };
    part.error(position, LoginErrorKind::Name(error.kind))
}
