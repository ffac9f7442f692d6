//! Feeds `sftp_request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_daemon::fuzz::run("sftp_request", data));
