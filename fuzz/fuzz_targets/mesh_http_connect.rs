//! Feeds `mesh_http_connect`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_mesh::fuzz::run("mesh_http_connect", data));
