//! What a node sends to the controller: arbitrary bytes never panic, and what is read merges and travels on.
#![no_main]

use fracas_loadgen::measure::Timeline;
use fracas_loadgen::report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(timeline) = Timeline::decode(bytes) else { return };
    assert!(Timeline::decode(&timeline.encode()).as_ref() == Ok(&timeline));
    let mut twice = timeline.clone();
    twice.merge(&timeline);
    let _ = (twice.response(), twice.lag(), twice.counts().check());
    let _ = report::hlog(&twice, 0);
    let _ = report::hgrm(&twice.service());
});
