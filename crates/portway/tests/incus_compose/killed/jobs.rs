//! A job whose start nobody tells the end of.

use std::time::Duration;

use portway_testkit::Deed;

use super::stand::Stand;

const UP: [&str; 4] = ["up", "-d", "--parallel", "1"];
const START: &str = "PUT /1.0/instances/job-1/state";

/// Fails when a job runs twice in one `up`: because the server has forgotten how its start ended, or answers the question
/// for its end with the end of the question.
#[test]
fn a_job_runs_once_whatever_is_told_of_its_start() {
    let Some(stand) = Stand::open("job") else { return };
    stand.scene.write(
        "services:
  job: {image: bb, command: [sh, -c, 'echo ran >> /data/runs'], volumes: ['data:/data'], restart: 'no'}
  web: {image: bb, command: [sleep, '100000'], volumes: ['data:/data'], stop_grace_period: 0s,
        depends_on: {job: {condition: service_completed_successfully}}}
volumes: {data: }
",
    );
    let late = br#"{"type":"error","error":"context deadline exceeded","error_code":500,"metadata":null}"#;
    let late =
        [format!("HTTP/1.1 500 X\r\nContent-Length: {}\r\n\r\n", late.len()).as_bytes(), late].concat();
    let failed =
        br#"{"type":"sync","status_code":200,"metadata":{"status_code":400,"err":"context deadline exceeded"}}"#;
    let failed =
        [format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", failed.len()).as_bytes(), failed].concat();
    for (long, deed) in [
        (Duration::from_secs(8), Deed::HoldBefore),
        (Duration::from_secs(2), Deed::Say(late)),
        (Duration::from_secs(2), Deed::Say(failed.clone())),
        (Duration::from_secs(8), Deed::Say(failed)),
    ] {
        let said = stand.keep(&UP, START, long, deed.clone());
        assert_eq!(said.code, Some(0), "{deed:?}: {said:?}");
        let runs = stand.scene.exec("web-1", "cat /data/runs");
        assert_eq!(String::from_utf8_lossy(&runs.stdout), "ran\n", "{deed:?}: {said:?}");
        stand.down_is_well(&deed);
    }
}
