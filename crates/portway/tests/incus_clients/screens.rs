//! Programs that draw on the screen, seen through a terminal emulator: through the gateway as without it.

use portway_testkit::{Image, client};
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::scene_of;

const SCREEN: &str = include_str!("drivers/screen.py");

/// What stood on the screen when it was shown, and how the program ended.
fn screens(scene: &Scene, program: &[String], steps: &[Value]) -> (Vec<Vec<String>>, i64) {
    let path = scene.path("screen.py");
    std::fs::write(&path, SCREEN).unwrap();
    let input: String = steps.iter().map(|step| format!("{step}\n")).collect();
    let mut command = client("python3");
    let output = scene.talk(command.arg(path).args(program), input.as_bytes()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said} {} {}", String::from_utf8_lossy(&output.stdout), scene.log());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    (serde_json::from_value(report["screens"].clone()).unwrap(), report["status"].as_i64().unwrap())
}

/// OpenSSH with a terminal, and these words for the shell inside.
fn through(scene: &Scene, words: &str) -> Vec<String> {
    let port = scene.port.to_string();
    let mut program = vec!["ssh".to_owned(), "-tt".to_owned()];
    program.extend(scene.options("key"));
    program.extend(["-p", &port, &Scene::at(scene.container.name()), words].map(str::to_owned));
    program
}

/// The same without the gateway: in the container's namespaces, on this terminal.
fn beside(scene: &Scene, words: &str) -> Vec<String> {
    let pid = scene.container.pid().unwrap().to_string();
    let words = [
        "nsenter",
        "--all",
        "-t",
        &pid,
        "--wd=/root",
        "env",
        "-i",
        "HOME=/root",
        "TERM=xterm",
        "LANG=C.UTF-8",
        "PATH=/usr/bin:/bin",
        "bash",
        "-c",
        words,
    ];
    words.map(str::to_owned).into()
}

/// Fails when a key, a colour's sequence or a size is changed on the way, or a screen is cut.
#[test]
fn vim_draws_the_same() {
    let Some(scene) = scene_of(Image::Debian, "vim") else { return };
    let words =
        "rm -f /tmp/.text.swp; seq -f 'line %g' 200 >/tmp/text; exec vi -u NONE -n -c 'set ruler' /tmp/text";
    let steps = [
        json!({"wait": "line 20"}),
        json!({"type": "100Gihello \u{e4}\u{20ac} world\u{1b}"}),
        json!({"wait": "world"}),
        json!({"show": true}),
        json!({"size": [40, 120]}),
        json!({"wait": "line 119"}),
        json!({"show": true}),
        json!({"type": ":wq\r"}),
    ];
    let (ours, status) = screens(&scene, &through(&scene, words), &steps);
    assert_eq!(status, 0, "{ours:?}");
    assert!(ours[0].iter().any(|line| line == "hello \u{e4}\u{20ac} worldline 100"), "{ours:?}");
    assert_eq!(ours[1].len(), 40, "{ours:?}");
    let saved = scene.container.sh("sed -n 100p /tmp/text").unwrap();
    assert_eq!(saved, "hello \u{e4}\u{20ac} worldline 100\n");
    let (theirs, _) = screens(&scene, &beside(&scene, words), &steps);
    assert_eq!(ours, theirs);
}

/// Fails when the last line, which is drawn where the terminal ends, is not there after a change of the size.
#[test]
fn htop_and_tmux_fill_the_screen() {
    let Some(scene) = scene_of(Image::Debian, "screens") else { return };
    let last = |screen: &[String]| screen.last().cloned().unwrap();
    let steps = [
        json!({"wait": "F10"}),
        json!({"show": true}),
        json!({"size": [45, 140]}),
        json!({"show": true}),
        json!({"type": "q"}),
    ];
    let (ours, status) = screens(&scene, &through(&scene, "exec htop -d 100"), &steps);
    assert_eq!((status, ours[0].len(), ours[1].len()), (0, 24, 45));
    for screen in &ours {
        assert!(last(screen).starts_with("F1Help") && last(screen).contains("F10Quit"), "{screen:#?}");
        assert!(screen.iter().any(|line| line.contains("PID") && line.contains("Command")), "{screen:#?}");
    }
    let words = "exec tmux -L t -f /dev/null new -s s 'PS1=\"$ \" sh'";
    let steps = [
        json!({"wait": "[s]"}),
        json!({"type": "\u{2}\""}),
        json!({"type": "echo lo''wer; stty size\r"}),
        json!({"wait": "lower"}),
        json!({"show": true}),
        json!({"size": [30, 100]}),
        json!({"type": "clear; stty size\r"}),
        json!({"wait": "14 100"}),
        json!({"show": true}),
        json!({"type": "tmux -L t kill-server\r"}),
    ];
    let (ours, _) = screens(&scene, &through(&scene, words), &steps);
    assert!(
        ours[0][12].starts_with("\u{2500}\u{2500}") || ours[0][11].starts_with("\u{2500}\u{2500}"),
        "{ours:#?}"
    );
    assert!(last(&ours[1]).starts_with("[s]") && ours[1].len() == 30, "{ours:#?}");
}
