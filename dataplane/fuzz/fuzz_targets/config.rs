//! The config, the mix syntax and the units: arbitrary text never panics, and an error is one line with its place.
#![no_main]

use std::collections::BTreeMap;

use fracas_dataplane::behavior::{self, mix};
use fracas_dataplane::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text, "f") {
        assert!(error.line > 0 && error.column > 0, "{error}");
        assert!(!error.to_string().contains('\n'), "{error:?}");
    }
    let _ = mix::parse(text, &BTreeMap::new());
    let _ = behavior::duration(text, "ms");
    let _ = behavior::bytes(text);
    let _ = behavior::rate(text);
});
