//! The page in a real tmux.

use std::path::PathBuf;
use std::process::Command;

use portway_testkit::{require, wait_for};

use crate::PORTWAY;
use crate::place::Place;

/// A tmux with one window, on a socket of its own.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(words);
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn shows(&self, text: &str) {
        let shown = || self.run(&["capture-pane", "-p"]).contains(text).then_some(());
        wait_for(text, shown).unwrap_or_else(|_| panic!("{text:?}:\n{}", self.run(&["capture-pane", "-p"])));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // It may not have started.
        let _ = self.command(&["kill-server"]).output();
    }
}

/// Fails when: the page is laid out for another size than the window's, or something of it stays behind the end.
#[test]
fn the_page_fits_the_window_and_goes_with_its_end() {
    if Command::new("tmux").arg("-V").output().is_err() {
        return require("no tmux");
    }
    let Some(place) = Place::start() else { return };
    let _traffic = place.traffic(8080);
    let dir = place.daemon.dir();
    let tmux = Tmux { socket: dir.with_file_name("tmux") };
    let shell = format!(
        "PORTWAY_DIR='{}' INCUS_SOCKET=/nonexistent/socket '{PORTWAY}' top; echo ended with $?; stty -a; exec sleep 1000",
        dir.display()
    );
    tmux.run(&["new-session", "-d", "-x", "100", "-y", "24", &shell]);
    tmux.shows("TRAFFIC");
    tmux.shows("KiB/s");
    assert_eq!(tmux.run(&["display-message", "-p", "#{alternate_on}"]).trim(), "1");
    tmux.run(&["resize-window", "-x", "50", "-y", "10"]);
    let fits = || {
        let lines = tmux.run(&["capture-pane", "-p"]);
        let is_narrow = lines.contains("INSTANCE") && lines.contains("OUT") && !lines.contains("TRAFFIC");
        (is_narrow && lines.lines().count() <= 10).then_some(())
    };
    wait_for("the page to be narrow", fits).unwrap();
    tmux.run(&["resize-window", "-x", "120", "-y", "30"]);
    tmux.shows("TRAFFIC");
    tmux.run(&["send-keys", "Enter"]);
    tmux.shows("CLIENT");
    tmux.run(&["send-keys", "Escape"]);
    tmux.shows("INSTANCE");
    tmux.run(&["send-keys", "q"]);
    tmux.shows("ended with 0");
    tmux.shows(" icanon");
    assert_eq!(tmux.run(&["display-message", "-p", "#{alternate_on}"]).trim(), "0");
    assert!(!tmux.run(&["capture-pane", "-p"]).contains("INSTANCE"));
}
