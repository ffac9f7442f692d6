//! Which variables of a program a client of the gateway has a say in.

/// What a locale and a colour are, and what git says of its protocol (`AcceptEnv` of distributions' sshd_config).
/// Whatever begins with `LC_` is among them.
const ACCEPTED: [&[u8]; 6] = [b"LANG", b"LANGUAGE", b"COLORTERM", b"NO_COLOR", b"GIT_PROTOCOL", b"TZ"];

/// Whether a client may set a variable. None of them changes what is run.
#[must_use]
pub fn is_clients_variable(name: &[u8]) -> bool {
    let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    plain && (ACCEPTED.contains(&name) || name.starts_with(b"LC_"))
}
