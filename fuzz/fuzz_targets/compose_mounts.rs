//! Feeds `compose_mounts`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_composefile::fuzz::run("compose_mounts", data));
