//! Feeds `ssh_certificate`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_sshgw::fuzz::run("ssh_certificate", data));
