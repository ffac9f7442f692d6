//! What is mapped, and then held against what the server keeps of it.

use super::*;
use crate::plan::{Up, up};
use crate::scene;

/// Fails when an empty value, which the server does not keep, is written anew by each `up`.
#[test]
fn empty_values_are_not_missed_at_the_next_up() {
    let text = "services:\n\
                \x20 a:\n\
                \x20   image: busybox\n\
                \x20   environment: {DEBUG: '', A: 1}\n\
                \x20   labels: [traefik.enable]\n\
                \x20   annotations: {x: ''}\n\
                \x20   x-incus: {user.note: ''}\n\
                \x20   volumes: ['data:/data']\n\
                volumes: {data: {labels: [backup]}}\n\
                networks: {default: {labels: [front]}}\n\
                x-incus: {user.note: ''}\n";
    let want = mapped(text, &old());
    assert_eq!(
        want.warnings,
        [
            "-:4:19: services.a.environment.DEBUG: ignored: the server keeps no variable that is empty, so it is not set"
        ]
    );
    let plan = |seen: &crate::observe::Observed| up(&want, seen, &Up::default()).expect("a plan");
    let seen = scene::server();
    let first = plan(&seen);
    assert!(!first.is_empty());
    let again = plan(&scene::after(seen, &first));
    assert!(again.is_empty(), "{:?}", scene::lines(&again));
}
