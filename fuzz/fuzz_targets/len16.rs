//! Feeds `len16`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_daemon::fuzz::run("len16", data));
