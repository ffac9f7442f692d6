//! File systems that do not answer: they take the instance's own threads and nobody else's.

use std::sync::Arc;

use portway_model::DeviceSpec;

use super::{OpenError, close_elsewhere, open_elsewhere};
use crate::provider::Run;

fn spec(bind: &str, listen: &str) -> DeviceSpec {
    let keys = [("bind", bind), ("listen", listen), ("connect", "tcp:127.0.0.1:2")];
    DeviceSpec::from_keys(keys).expect("keys of a device")
}

#[tokio::test]
async fn an_instance_whose_file_system_hangs_has_two_threads_and_no_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = spec("instance", &format!("unix:{}/s", folder.path().display()));
    let pid = i32::try_from(std::process::id()).expect("a pid");
    let run = Run::of_process(pid).expect("this process lives");

    let open = open_elsewhere(inside.clone(), Some(run.clone())).await.expect("the folder is there");
    close_elsewhere(open, inside.clone(), Some(run.clone())).await;
    assert_eq!(run.threads.work.available_permits(), 2, "an ended thread counts no more");

    let hung = Arc::clone(&run.threads.work).acquire_many_owned(2).await.expect("two");
    let refused = open_elsewhere(inside, Some(run.clone())).await;
    assert!(
        matches!(refused, Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::TimedOut)
    );
    let host = spec("host", &format!("unix:{}/s", folder.path().display()));
    let open = open_elsewhere(host.clone(), Some(run.clone()))
        .await
        .expect("the host's own files are another matter");
    close_elsewhere(open, host, Some(run)).await;
    drop(hung);
}
