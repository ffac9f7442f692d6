//! Feeds `netlink_answer`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_daemon::fuzz::run("netlink_answer", data));
