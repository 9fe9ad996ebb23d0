//! What fracas prints under `--json`: the one place of the bench that knows the names.

use serde_json::Value;

/// One percentile of a series of run.json, in nanoseconds.
pub fn percentile_ns(run: &Value, series: &str, percentile: &str) -> Option<f64> {
    run[series][format!("p{percentile}")].as_f64()
}

/// How long a change took until all workers had it, in microseconds.
pub fn took_us(reply: &Value) -> Option<f64> {
    Some(reply["took_ns"].as_f64()? / 1e3)
}

/// A percentile, in microseconds, of how late the first rule that delays was done; `reply` lists proxies.
pub fn lateness_us(reply: &Value, percentile: &str) -> Option<f64> {
    let rules = reply.as_array()?.iter().filter_map(|proxy| proxy["rules"].as_array()).flatten();
    let mut late = rules.filter_map(|rule| rule["accuracy"][format!("p{percentile}_ns")].as_f64());
    Some(late.next()? / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_figure_is_read_by_its_own_name_only() {
        assert_eq!(percentile_ns(&json!({"lag": {"p50": 900, "p99": 5}}), "lag", "50"), Some(900.0));
        assert_eq!(percentile_ns(&json!({"service": {"p50": 900}}), "lag", "50"), None);
        let change = json!({"applied_at_monotonic_ns": 7_622_208_401_000u64, "took_ns": 120_000});
        assert_eq!(took_us(&change), Some(120.0));
        assert_eq!(took_us(&json!({"generation": 3})), None);
        let rules = json!([{"rules": [{"accuracy": null}, {"accuracy": {"p50_ns": 150_000}}]}]);
        assert_eq!(lateness_us(&rules, "50"), Some(150.0));
        assert_eq!(lateness_us(&rules, "99"), None);
    }
}
