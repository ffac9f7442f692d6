//! The server goes away in the middle of `up`, or says what is no answer.

use std::time::Duration;

use portway_testkit::Deed;

use super::stand::{Counts, Moment, Stand};
use crate::scene::Said;

const UP: [&str; 4] = ["up", "-d", "--parallel", "1"];

/// Fails when what is said is no line of its own, or has another exit code.
fn is_told(said: &Said, codes: &[i32], about: &dyn std::fmt::Debug) {
    assert!(said.code.is_some_and(|code| codes.contains(&code)), "{about:?}: {said:?}");
    let errors: Vec<&str> = said.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{about:?}: {said:?}");
    assert!(!said.err.contains("panicked"), "{about:?}: {said:?}");
}

/// Fails when: an answer that does not come, or is none, hangs the command or keeps the next one from its end.
#[test]
fn connections_that_are_cut_and_answers_that_are_none() {
    let Some(stand) = Stand::open("cut") else { return };
    let requests = stand.requests(&UP);
    stand.up_is_well(1, &"uncut");
    let shape = stand.shape();
    stand.down_is_well(&"uncut");
    let changes = requests.iter().filter(|line| !line.starts_with("GET ")).count();
    let busy = b"HTTP/1.1 503 Busy\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nbusy\n";
    let error = br#"{"type":"error","error":"database is locked","error_code":500,"metadata":null}"#;
    let locked = format!("HTTP/1.1 500 X\r\nContent-Length: {}\r\n\r\n", error.len());
    let locked = [locked.as_bytes(), error].concat();
    let rounds = [
        (1, Counts::All, Deed::CutBefore, vec![3]),
        (requests.len() / 3, Counts::All, Deed::Short, vec![1, 3]),
        (1, Counts::Changes, Deed::CutAfter, vec![3]),
        (changes / 4, Counts::Changes, Deed::CutBefore, vec![3]),
        (changes / 2, Counts::Changes, Deed::CutAfter, vec![3]),
        (changes / 2 + 1, Counts::Changes, Deed::Short, vec![1, 3]),
        (changes * 3 / 4, Counts::Changes, Deed::Say(busy.to_vec()), vec![1]),
        (changes / 3, Counts::Changes, Deed::Say(locked), vec![1]),
    ];
    for (number, counts, deed, codes) in rounds {
        let moment = Moment { number, counts, deed };
        let said = stand.through(&UP, &moment).expect("it comes that far");
        is_told(&said, &codes, &moment);
        stand.up_is_well(1, &moment);
        assert_eq!(stand.shape(), shape, "{moment:?}");
        stand.down_is_well(&moment);
    }
}

/// Fails when: a server that ends in the middle is asked for every step that is left, or is not told with exit code 3.
#[test]
fn the_socket_goes_and_comes_back() {
    let Some(stand) = Stand::open("gone") else { return };
    let changes = stand.requests(&UP).iter().filter(|line| !line.starts_with("GET ")).count();
    stand.down_is_well(&"at first");
    for number in [changes / 3, changes * 2 / 3] {
        let moment = Moment { number, counts: Counts::Changes, deed: Deed::HoldWithin };
        let said = stand.leave(&UP, &moment);
        is_told(&said, &[3], &moment);
        assert!(said.err.contains("cannot reach the server"), "{said:?}");
        assert!(said.err.lines().count() < 16, "it is not said for each step: {said:?}");
        stand.up_is_well(1, &moment);
        stand.down_is_well(&moment);
    }
}

/// An operation of which the server knows nothing when it is asked how it went on, as after its restart: it forgets those
/// that have ended after five seconds.
///
/// Fails when: it is taken for a failure, or what was asked for is not there.
#[test]
fn an_operation_that_the_server_has_forgotten() {
    let Some(stand) = Stand::open("forgot") else { return };
    for target in ["POST /1.0/instances?", "PUT /1.0/instances/db-1/state"] {
        let said = stand.keep(&UP, target, Duration::from_secs(8), Deed::HoldBefore);
        assert_eq!(said.code, Some(0), "what was done is found to be there: {target}: {said:?}");
        stand.up_is_well(1, &target);
        stand.down_is_well(&target);
    }
}
