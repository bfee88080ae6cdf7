//! See `surfaces`.
#![no_main]
#![allow(missing_docs, dead_code, clippy::all)]

#[path = "../surfaces.rs"]
mod surfaces;

libfuzzer_sys::fuzz_target!(|data: &[u8]| surfaces::ip_dumps(data));
