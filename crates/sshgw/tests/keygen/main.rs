//! What OpenSSH's own `ssh-keygen` makes, read by us.

#[cfg(test)]
mod openssh;
