//! Who may touch a bed: `up` and `down` one after the other, `down` only when no test uses it.
//!
//! The files lie outside the bed, so that removing it removes no lock somebody waits for. A lock
//! goes with its process: a killed test leaves none.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Place, say};

const LOCKS: &str = "/run/lock";

/// How long another process may take to bring the bed up: packages over a slow line.
const SETUP_LIMIT: Duration = Duration::from_secs(900);

/// How long a test waits for the others when it must have the bed for itself.
const ALONE_LIMIT: Duration = Duration::from_secs(120);

/// A share in the use of a bed; `down` is refused while one lives.
#[derive(Debug)]
pub struct InUse(File);

impl InUse {
    /// Takes a share; waits while the bed is being removed.
    ///
    /// # Errors
    /// When the lock file cannot be made, as by anybody but root.
    pub fn share(place: &Place) -> Result<Self> {
        let file = open(place, "use")?;
        file.lock_shared().context("cannot lock the bed's use")?;
        Ok(Self(file))
    }

    /// Does `work` while no other process uses the bed. Other runs of the tests may follow each other
    /// without a gap: after two minutes it is done all the same.
    pub(crate) fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let begin = Instant::now();
        // A share that becomes more is given up first (flock(2)), and taken again at the end.
        while self.0.try_lock().is_err() && begin.elapsed() < ALONE_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let done = work();
        self.0.lock_shared().context("cannot lock the bed's use")?;
        Ok(done)
    }
}

/// The right to bring the bed up or down, waited for.
pub(super) fn setup(place: &Place) -> Result<File> {
    exclusive(place, "setup", SETUP_LIMIT, "another process sets the bed up")
}

/// The right to remove the bed, which nobody may use then. A process that calls this must not hold
/// [`InUse`] itself.
pub(crate) fn alone(place: &Place, patience: Duration) -> Result<File> {
    exclusive(place, "use", patience, "tests use the bed")
}

/// The right to build what several beds share, waited for.
pub(super) fn shared_build() -> Result<File> {
    wait(open_named("root", "setup")?, SETUP_LIMIT, "another process builds the root of the test servers")
}

fn exclusive(place: &Place, what: &str, patience: Duration, obstacle: &str) -> Result<File> {
    wait(open(place, what)?, patience, obstacle)
}

fn wait(file: File, patience: Duration, obstacle: &str) -> Result<File> {
    let begin = Instant::now();
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < patience => {
                if !said && begin.elapsed() > Duration::from_secs(2) {
                    said = true;
                    say(&format!("waiting: {obstacle}"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => bail!("{obstacle}"),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the bed"),
        }
    }
}

fn open(place: &Place, what: &str) -> Result<File> {
    open_named(place.name, what)
}

fn open_named(name: &str, what: &str) -> Result<File> {
    fs::create_dir_all(LOCKS).with_context(|| format!("cannot make {LOCKS}"))?;
    let path = Path::new(LOCKS).join(format!("portway-testbed-{name}.{what}"));
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_waits_for_no_test_and_disturbs_none() {
        if !crate::is_root() {
            return;
        }
        let name: &'static str = format!("test-{}", std::process::id()).leak();
        let place = Place { name, ..Place::incus6() };
        let (one, two) = (InUse::share(&place).unwrap(), InUse::share(&place).unwrap());
        assert!(alone(&place, Duration::ZERO).unwrap_err().to_string().contains("tests use the bed"));
        drop(one);
        assert!(alone(&place, Duration::ZERO).is_err());
        drop(two);
        drop(alone(&place, Duration::ZERO).unwrap());
        drop(setup(&place).unwrap());
        for what in ["use", "setup"] {
            fs::remove_file(Path::new(LOCKS).join(format!("portway-testbed-{name}.{what}"))).unwrap();
        }
    }
}
