//! Feeds `ssh_kept`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_sshgw::fuzz::run("ssh_kept", data));
