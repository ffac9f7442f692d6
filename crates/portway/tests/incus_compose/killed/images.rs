//! Images that `down` is to remove and cannot.

use portway_testkit::Deed;

use super::stand::Stand;

/// Fails when an image that stays is not named with the server's reason, is no failure, or keeps the rest from going.
#[test]
fn an_image_that_stays_is_named() {
    let Some(stand) = Stand::open("images") else { return };
    let scene = &stand.scene;
    scene.write("services:\n  web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}\n");
    let down = ["down", "-v", "--rmi", "local"];
    let error = br#"{"type":"error","error":"database is locked","error_code":500,"metadata":null}"#;
    let locked = format!("HTTP/1.1 500 X\r\nContent-Length: {}\r\n\r\n", error.len());
    let locked = [locked.as_bytes(), error].concat();
    for (deed, code, lines) in [
        (
            Deed::Say(locked),
            1,
            &["warning: image ours stays: ", "database is locked", "error: an image could not be removed"][..],
        ),
        (Deed::CutBefore, 3, &["error: cannot reach the server at "]),
    ] {
        scene.ok(&["create"]);
        // As a build leaves it.
        let project = scene.name.as_str();
        let labels = [&format!("portway.project={project}"), "description=ours"];
        let publish =
            [&["publish", "--project", project, "web-1"][..], &labels.map(|label| label as &str)].concat();
        let published = scene.bed.client_output(&publish).unwrap();
        assert!(published.status.success(), "{published:?}");
        assert_eq!(scene.images().len(), 1);
        let said = stand.answered(&down, "DELETE /1.0/images/", deed);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(lines.iter().all(|line| said.err.contains(line)), "{said:?}");
        assert!(!scene.images().is_empty() && scene.is_gone(), "{said:?}");
        scene.ok(&down);
        assert!(scene.images().is_empty());
    }
}
