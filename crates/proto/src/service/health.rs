//! How the health of a service is told: by a program inside, again and again.
//!
//! Two ask: the command that waits for a service, and the daemon from then on. The daemon reads what to ask from a key of
//! the instance's configuration ([`KEY`], [`Health::write`]), which whoever may change the instance can write: to it
//! these are a stranger's bytes, and what they say is run inside that instance and nowhere else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{BESIDE, DIR, PROGRAM};

/// The key of the instance.
pub const KEY: &str = "user.portway.health";

/// Longest text of a [`Health`] that is read, bytes.
pub const TEXT_MAX_BYTES: usize = 16 << 10;

/// Longest of its times: a week.
const TIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Shortest time between two tests, and of one: each is a program that the server starts.
pub const TIME_MIN: Duration = Duration::from_millis(100);

/// What the start of a program by the server, and its end, may take beside.
const MORE: Duration = Duration::from_secs(10);

/// Variable by which [`BESIDE`] is told how long the program may take, in milliseconds. Then it ends with all that it has
/// started. The program itself does not see it.
pub const LIMIT: &str = "PORTWAY_LIMIT_MS";

/// How health is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The program and its arguments; a shell's line has the shell in front.
    pub test: Vec<String>,
    /// Who runs it.
    pub tester: Tester,
    /// Between two tests.
    pub interval: Duration,
    /// Longest time of one.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// Failures do not count for this long.
    pub start_period: Duration,
    /// Between two tests in that time.
    pub start_interval: Duration,
}

/// Who runs a test of health, and so as whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tester {
    /// Portway's first process, which knows the service's user, groups, variables and folder.
    Guest,
    /// The server: as the user that the image of a registry runs as, else as root.
    Server,
}

/// Why a text is no [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// It is longer than [`TEXT_MAX_BYTES`].
    #[error("it is too long")]
    Long,
    /// A line nobody knows, or one that is missing.
    #[error("a line that is none, or is missing: {0}")]
    Line(&'static str),
    /// A time that is out of bounds.
    #[error("a time that is none: {0}")]
    Time(&'static str),
}

impl Health {
    /// As it is kept: a line for each word of the test and for each number, `name=value`.
    ///
    /// # Errors
    /// [`HealthError::Long`].
    pub fn write(&self) -> Result<String, HealthError> {
        let tester = match self.tester {
            Tester::Guest => "guest",
            Tester::Server => "server",
        };
        let mut text = format!("tester={tester}\nretries={}\n", self.retries);
        for (name, time) in [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("start_period", self.start_period),
            ("start_interval", self.start_interval),
        ] {
            text.push_str(&format!("{name}={}\n", time.as_millis()));
        }
        for word in &self.test {
            text.push_str("test=");
            for one in word.chars() {
                match one {
                    '\\' => text.push_str("\\\\"),
                    '\n' => text.push_str("\\n"),
                    '\r' => text.push_str("\\r"),
                    one => text.push(one),
                }
            }
            text.push('\n');
        }
        if text.len() > TEXT_MAX_BYTES { Err(HealthError::Long) } else { Ok(text) }
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`HealthError`].
    pub fn read(text: &str) -> Result<Health, HealthError> {
        if text.len() > TEXT_MAX_BYTES {
            return Err(HealthError::Long);
        }
        let all = |name: &'static str| {
            text.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let one = |name: &'static str| all(name).next().ok_or(HealthError::Line(name));
        let time = |name: &'static str, least: Duration| {
            let millis = one(name)?.parse().map_err(|_| HealthError::Time(name))?;
            let time = Duration::from_millis(millis);
            if (least..=TIME_MAX).contains(&time) { Ok(time) } else { Err(HealthError::Time(name)) }
        };
        let test = all("test").map(word).collect::<Option<Vec<String>>>().filter(|words| !words.is_empty());
        Ok(Health {
            test: test.ok_or(HealthError::Line("test"))?,
            tester: match one("tester")? {
                "guest" => Tester::Guest,
                "server" => Tester::Server,
                _ => return Err(HealthError::Line("tester")),
            },
            interval: time("interval", TIME_MIN)?,
            timeout: time("timeout", TIME_MIN)?,
            retries: one("retries")?.parse().map_err(|_| HealthError::Line("retries"))?,
            start_period: time("start_period", Duration::ZERO)?,
            start_interval: time("start_interval", TIME_MIN)?,
        })
    }

    /// Whether all its times are within bounds, so that who reads it takes it.
    ///
    /// # Errors
    /// The name of one that is not.
    pub fn check(&self) -> Result<(), &'static str> {
        let times = [
            ("interval", self.interval, TIME_MIN),
            ("timeout", self.timeout, TIME_MIN),
            ("start_period", self.start_period, Duration::ZERO),
            ("start_interval", self.start_interval, TIME_MIN),
        ];
        let wrong = times.into_iter().find(|(_, time, least)| !(*least..=TIME_MAX).contains(time));
        wrong.map_or(Ok(()), |(name, ..)| Err(name))
    }

    /// What the server is asked to run.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let own = match self.tester {
            Tester::Guest => vec![format!("{DIR}/{PROGRAM}"), BESIDE.to_owned(), DIR.to_owned()],
            Tester::Server => Vec::new(),
        };
        own.into_iter().chain(self.test.iter().cloned()).collect()
    }
}

impl Health {
    /// Variables for that: how long it may take, for whom sees to it there.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let millis = self.timeout.as_millis().to_string();
        let told = (self.tester == Tester::Guest).then(|| (LIMIT.to_owned(), millis));
        told.into_iter().collect()
    }

    /// How long its end is waited for: for whom sees to it there, it ends in time and leaves nothing behind.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.tester {
            Tester::Guest => self.timeout.saturating_add(MORE),
            Tester::Server => self.timeout,
        }
    }
}

/// A word as it was before it became a line's.
fn word(text: &str) -> Option<String> {
    let mut word = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(one) = chars.next() {
        word.push(match one {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            one => one,
        });
    }
    Some(word)
}

/// What is known of a service's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No test has succeeded yet, and too few have failed.
    Starting,
    /// The latest test has succeeded, or too few have failed since one did.
    Healthy,
    /// So many tests in a row have failed as the service says.
    Unhealthy,
}

/// One life of a service, by its tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    verdict: Verdict,
    failures: u32,
    begin: Instant,
    /// It had begun before anybody looked.
    is_found: bool,
}

impl Course {
    /// That of a service which began at `begin`.
    #[must_use]
    pub const fn begun(begin: Instant) -> Course {
        Course { verdict: Verdict::Starting, failures: 0, begin, is_found: false }
    }

    /// That of a service which is found running, and began at `begin`: its first tests come closer together, for it may
    /// have been well, or ill, for long.
    #[must_use]
    pub const fn found(begin: Instant) -> Course {
        Course { is_found: true, ..Course::begun(begin) }
    }

    /// What is known.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Failures in a row that count.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes in a test that began at `at`. Failures of one that starts do not count in the start period.
    pub fn take(&mut self, health: &Health, at: Instant, has_passed: bool) {
        if has_passed {
            (self.verdict, self.failures) = (Verdict::Healthy, 0);
            return;
        }
        if self.starts(health, at) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= health.retries.max(1) {
            self.verdict = Verdict::Unhealthy;
        }
    }

    /// From the end of a test at `now` to the next one.
    #[must_use]
    pub fn gap(&self, health: &Health, now: Instant) -> Duration {
        let is_soon = self.starts(health, now) || (self.is_found && self.verdict == Verdict::Starting);
        if is_soon { health.start_interval.min(health.interval) } else { health.interval }
    }

    fn starts(&self, health: &Health, at: Instant) -> bool {
        self.verdict == Verdict::Starting && at.saturating_duration_since(self.begin) < health.start_period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            test: vec!["sh".to_owned(), "-c".to_owned(), "a\\n=\n\r\\ 'ü'".to_owned(), String::new()],
            tester: Tester::Guest,
            interval: Duration::from_secs(30),
            timeout: Duration::from_millis(1500),
            retries: 3,
            start_period: Duration::from_secs(60),
            start_interval: Duration::from_secs(5),
        }
    }

    /// Fails when a word, a time or who runs it is another after it was kept.
    #[test]
    fn what_is_kept_is_read_again() {
        for tester in [Tester::Guest, Tester::Server] {
            let one = Health { tester, ..health() };
            assert_eq!(Health::read(&one.write().unwrap()), Ok(one));
        }
        let long = Health { test: vec!["x".repeat(TEXT_MAX_BYTES)], ..health() };
        assert_eq!(long.write(), Err(HealthError::Long));
    }

    /// Fails when what a stranger has written is taken for a test, or is run more often than the server can bear.
    #[test]
    fn what_is_none_is_refused() {
        let text = health().write().unwrap();
        let with = |from: &str, to: &str| Health::read(&text.replace(from, to)).unwrap_err();
        assert_eq!(with("interval=30000", "interval=99"), HealthError::Time("interval"));
        assert_eq!(with("interval=30000", "interval=-1"), HealthError::Time("interval"));
        assert_eq!(with("timeout=1500", "timeout=99999999999999999999"), HealthError::Time("timeout"));
        assert_eq!(with("start_period=60000", "start_period=604800001"), HealthError::Time("start_period"));
        assert_eq!(with("tester=guest", "tester=host"), HealthError::Line("tester"));
        assert_eq!(with("retries=3", "retries=x"), HealthError::Line("retries"));
        assert_eq!(with("test=-c", "test=\\x"), HealthError::Line("test"));
        assert_eq!(Health::read(""), Err(HealthError::Line("test")));
        assert_eq!(Health::read(&"\n".repeat(TEXT_MAX_BYTES + 1)), Err(HealthError::Long));
    }

    /// Fails when a text makes it panic, or what was taken from one is not what is kept of it.
    #[test]
    fn any_text_is_borne() {
        let lines = "(tester=(guest|server)\n|(retries|interval|timeout|start_period|start_interval)=[0-9]{0,9}\n|test=.{0,9}\n|.{0,9}\n){0,12}";
        proptest::proptest!(|(text in lines)| {
            let text = format!("{text}tester=guest\nretries=1\ninterval=100\ntimeout=100\nstart_period=0\nstart_interval=100\n");
            if let Ok(health) = Health::read(&text) {
                proptest::prop_assert_eq!(Health::read(&health.write().unwrap()), Ok(health));
            }
        });
    }

    /// Every state and both results, in the start period and after it.
    ///
    /// Fails when: a failure counts that does not, one that counts does not, or a success does not end the start.
    #[test]
    fn a_course_is_as_docker_has_it() {
        use Verdict::{Healthy, Starting, Unhealthy};
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let run = |results: &[(u64, bool)]| {
            let mut course = Course::begun(begin);
            for (second, passed) in results {
                course.take(&health(), at(*second), *passed);
            }
            (course.verdict(), course.failures())
        };
        assert_eq!(run(&[]), (Starting, 0));
        assert_eq!(run(&[(0, false), (5, false), (10, false), (59, false)]), (Starting, 0));
        assert_eq!(run(&[(59, false), (60, false), (61, false)]), (Starting, 2));
        assert_eq!(run(&[(60, false), (61, false), (62, false)]), (Unhealthy, 3));
        assert_eq!(run(&[(1, true), (2, false), (3, false)]), (Healthy, 2));
        assert_eq!(run(&[(1, true), (2, false), (3, false), (4, false)]), (Unhealthy, 3));
        assert_eq!(run(&[(60, false), (61, false), (62, false), (63, false), (64, true)]), (Healthy, 0));
        let mut none = Course::begun(begin);
        none.take(&Health { retries: 0, start_period: Duration::ZERO, ..health() }, begin, false);
        assert_eq!(none.verdict(), Unhealthy);
    }

    #[test]
    fn tests_come_closer_together_while_it_starts() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let gap = |course: &Course, second| course.gap(&health(), at(second)).as_secs();
        let (mut begun, mut found) = (Course::begun(begin), Course::found(begin));
        assert_eq!((gap(&begun, 59), gap(&begun, 60)), (5, 30));
        assert_eq!((gap(&found, 59), gap(&found, 6000)), (5, 5));
        for course in [&mut begun, &mut found] {
            course.take(&health(), at(1), true);
            assert_eq!(gap(course, 2), 30);
        }
    }
}
