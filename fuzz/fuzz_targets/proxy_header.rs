//! Feeds `proxy_header`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_daemon::fuzz::run("proxy_header", data));
