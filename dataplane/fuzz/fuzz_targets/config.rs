//! The config, the mix syntax and the units: arbitrary text never panics, and an error is one line with its place.
#![no_main]

use std::collections::BTreeMap;

use fracas_dataplane::behavior::mix;
use fracas_dataplane::config::Config;
use fracas_dataplane::nearest::nearest;
use fracas_dataplane::units;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text, "f") {
        assert!(error.line > 0 && error.column > 0, "{error}");
        assert!(!error.to_string().contains('\n'), "{error:?}");
    }
    let _ = mix::parse(text, &BTreeMap::new());
    let _ = nearest(text, ["delay", "throttle"]);
    if let Ok(time) = units::parse_duration_in(text, "ms") {
        assert_eq!(units::parse_duration(&units::duration_text(time)), Ok(time));
    }
    if let Some(rate) = units::parse_byte_rate(text) {
        assert_eq!(units::parse_byte_rate(&units::byte_rate_text(rate)), Some(rate));
    }
    let _ = (units::parse_count(text), units::parse_percent(text, "%"));
});
