//! Feeds `guest_frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_daemon::fuzz::run("guest_frame", data));
