//! A run.json that somebody edited: it is refused or shown, never a panic, and written again it reads the same.
#![no_main]

use fracas_loadgen::report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(summary) = report::read_json(bytes) else { return };
    let again = report::read_json(&report::json(&summary)).expect("what is written can be read");
    assert!(again == summary);
    let _ = report::text(&summary, true);
    let _ = report::diff(&summary, &again);
    let _ = report::html(&summary);
});
