//! Feeds `mesh_token`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway_mesh::fuzz::run("mesh_token", data));
