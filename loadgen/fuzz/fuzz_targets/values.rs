//! Times, rates, sizes, targets and objectives: arbitrary text never panics, and what is displayed reads back.
#![no_main]

use fracas_dataplane::units::{Rate, bytes_text, exact_duration_text, parse_bytes, parse_duration};
use fracas_loadgen::scenario::{Slo, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&exact_duration_text(duration)), Ok(duration));
    }
    if let Ok(rate) = text.parse::<Rate>() {
        assert!(rate.as_f64() > 0.0);
        assert_eq!(rate.to_string().parse(), Ok(rate));
    }
    if let Ok(bytes) = parse_bytes(text) {
        assert_eq!(parse_bytes(&bytes_text(bytes)), Ok(bytes));
    }
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    if let Ok(slo) = text.parse::<Slo>() {
        assert_eq!(slo.to_string().parse(), Ok(slo.clone()));
        assert!(!slo.bound.is_nan());
        let _ = (slo.holds(0.0), slo.format(slo.bound));
    }
});
