//! The program that runs inside instances, as bytes: built with this crate, static, for the same architecture.

include!(concat!(env!("OUT_DIR"), "/program.rs"));

/// The program for an instance of `architecture`, as Incus and `uname -m` name it.
///
/// # Errors
/// [`Unsupported`] where this build has none.
pub fn program(architecture: &str) -> Result<&'static [u8], Unsupported> {
    match PROGRAM {
        Some((own, program)) if own == architecture => Ok(program),
        other => {
            let built = other.map_or("none", |(own, _)| own);
            Err(Unsupported { architecture: architecture.to_owned(), built })
        }
    }
}

/// No program for that architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this build has no helper for instances of architecture {architecture} (it has: {built}); x86_64 and aarch64 are built on a machine of their own kind"
)]
pub struct Unsupported {
    architecture: String,
    built: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: the program is not built, not static, or grows.
    #[test]
    fn the_program_is_there_for_this_machine() {
        let program = program(std::env::consts::ARCH).expect("tests run on an architecture that has one");
        assert!(program.starts_with(b"\x7fELF"));
        assert!(program.len() < 1_850_000, "{} bytes", program.len());
    }

    #[test]
    fn another_architecture_is_named() {
        let said = program("riscv64").expect_err("there is none").to_string();
        assert!(said.starts_with("this build has no helper for instances of architecture riscv64 (it has: "));
    }
}
