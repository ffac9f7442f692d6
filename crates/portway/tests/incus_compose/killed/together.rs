//! A command in the middle of another one on the same project.

use super::stand::Stand;

const UP: [&str; 4] = ["up", "-d", "--parallel", "1"];
const DOWN: [&str; 6] = ["down", "-v", "-t", "0", "--parallel", "1"];

/// Fails when two commands change a project at once, the second one is not told so in one line, or the first one notices.
#[test]
fn the_second_command_is_told_of_the_first() {
    let Some(stand) = Stand::open("second") else { return };
    let scene = &stand.scene;
    let is_told = || {
        let before = scene.instances();
        for args in [&["up", "-d"][..], &["down", "-v"], &["stop"]] {
            let said = scene.run(args);
            assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
            let errors: Vec<&str> = said.err.lines().filter(|line| !line.starts_with("hint: ")).collect();
            assert_eq!(errors.len(), 1, "{args:?}: {said:?}");
            let line = format!("error: another command changes project {} at present (process ", scene.name);
            assert!(errors[0].starts_with(&line), "{args:?}: {said:?}");
        }
        assert_eq!(scene.instances(), before);
    };
    // So late that there is something to be stopped.
    let said = stand.meanwhile(&UP, "PUT /1.0/instances/web-1/state", is_told);
    assert_eq!(said.code, Some(0), "{said:?}");
    stand.up_is_well(1, &"up");
    let said = stand.meanwhile(&DOWN, "PUT /1.0/instances/db-1/state", is_told);
    assert_eq!(said.code, Some(0), "{said:?}");
    stand.down_is_well(&"down");
}
