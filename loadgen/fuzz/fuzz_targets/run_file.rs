//! Run files: arbitrary text never panics; a refusal is one line with its place; what is read can be planned, and
//! travels to another node unchanged.
#![no_main]

use fracas_loadgen::arrival::{Schedule, Shard};
use fracas_loadgen::protocol::http::request_bytes;
use fracas_loadgen::scenario::{self, Plan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let plan = match scenario::parse("f", text) {
        Ok(plan) => plan,
        Err(error) => {
            assert!(error.line > 0 && error.column > 0, "{error:?}");
            assert!(!error.to_string().contains('\n'), "{error:?}");
            return;
        }
    };
    assert_eq!(plan.validate(), Ok(()));
    let json = serde_json::to_string(&plan).expect("a plan has text keys only");
    assert_eq!(serde_json::from_str::<Plan>(&json).expect("a plan travels"), plan);
    let _ = plan.duration();
    let _ = request_bytes(&plan);
    for shard in [Shard::new(0, 3), Shard::new(2, 3)].into_iter().flatten() {
        let mut schedule = Schedule::new(&plan, shard);
        let mut before = None;
        for _ in 0..100 {
            let Some(arrival) = schedule.next() else { break };
            assert!(before <= Some(arrival.due), "arrivals go back in time");
            before = Some(arrival.due);
        }
    }
});
