//! Feeds `control_head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_daemon::fuzz::run("control_head", data));
