//! What fracas prints under `--json`, read tolerantly: the one place that knows the names.

use serde_json::Value;

/// One percentile of a series of run.json, in nanoseconds.
///
/// The series may stand at the top or under `series`, its percentiles in it or under `percentiles`, and be named
/// `p50`, `p50_ns` or `50`.
pub fn percentile_ns(run: &Value, series: &str, percentile: &str) -> Option<f64> {
    let series = [&run[series], &run["series"][series], &run["percentiles"][series]];
    let names = [format!("p{percentile}"), format!("p{percentile}_ns"), percentile.to_owned()];
    let places =
        series.iter().flat_map(|series| [*series, &series["percentiles"], &series["percentiles_ns"]]);
    places.flat_map(|place| names.iter().map(move |name| &place[name.as_str()])).find_map(Value::as_f64)
}

/// How long a change took until all workers had it, in microseconds: the first field `took…` or `applied…` with a unit,
/// at any depth.
pub fn took_us(reply: &Value) -> Option<f64> {
    let find = |(name, value): (&String, &Value)| {
        let is_meant = name.starts_with("took") || name.starts_with("applied");
        is_meant.then(|| in_microseconds(name, value)).flatten().or_else(|| took_us(value))
    };
    match reply {
        Value::Object(fields) => fields.iter().find_map(find),
        Value::Array(items) => items.iter().find_map(took_us),
        _ => None,
    }
}

/// A percentile, in microseconds, of how late a delay was done: of the first object under a name with `accuracy` or
/// `late` in it.
pub fn lateness_us(reply: &Value, percentile: &str) -> Option<f64> {
    let find = |(name, value): (&String, &Value)| {
        let is_meant = name.contains("accuracy") || name.contains("late");
        is_meant
            .then(|| percentile_us(value, percentile))
            .flatten()
            .or_else(|| lateness_us(value, percentile))
    };
    match reply {
        Value::Object(fields) => fields.iter().find_map(find),
        Value::Array(items) => items.iter().find_map(|item| lateness_us(item, percentile)),
        _ => None,
    }
}

fn percentile_us(series: &Value, percentile: &str) -> Option<f64> {
    let names = ["", "_ns", "_us"].map(|unit| format!("p{percentile}{unit}"));
    names.iter().find_map(|name| in_microseconds(name, &series[name.as_str()]))
}

/// A number by the unit in its name, nanoseconds without one; or text such as `1.5ms`.
fn in_microseconds(name: &str, value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        let units = [("_ms", 1e3), ("_us", 1.0), ("_s", 1e6)];
        return Some(
            number * units.iter().find(|(unit, _)| name.ends_with(unit)).map_or(1e-3, |(_, scale)| *scale),
        );
    }
    let text = value.as_str()?;
    // Two-letter units first: `s` ends them all.
    [("ns", 1e-3), ("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6)]
        .iter()
        .find_map(|(unit, scale)| Some(text.strip_suffix(unit)?.trim().parse::<f64>().ok()? * scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentiles_are_found_in_each_likely_shape() {
        for run in [
            json!({"lag": {"p50": 900, "p99": 5}}),
            json!({"series": {"lag": {"p50_ns": 900}}}),
            json!({"percentiles": {"lag": {"50": 900}}}),
            json!({"lag": {"percentiles": {"p50": 900}}}),
        ] {
            assert_eq!(percentile_ns(&run, "lag", "50"), Some(900.0), "{run}");
        }
        assert_eq!(percentile_ns(&json!({"service": {"p50": 900}}), "lag", "50"), None);
    }

    #[test]
    fn the_time_a_change_took_is_found_with_its_unit() {
        for reply in [
            json!({"generation": 3, "took_us": 120.0}),
            json!({"proxies": [{"took_ns": 120_000}]}),
            json!({"applied": {"took": "0.12ms"}}),
            json!({"took": "0.00012s"}),
        ] {
            let took = took_us(&reply).unwrap();
            assert!((took - 120.0).abs() < 1e-9, "{reply}: {took}");
        }
        assert_eq!(took_us(&json!({"generation": 3})), None);
    }

    #[test]
    fn lateness_is_found_beside_its_rule() {
        let reply = json!({"rules": [{"behavior": "delay", "accuracy": {"p50_ns": 150_000, "p99_us": 400}}]});
        assert_eq!(lateness_us(&reply, "50"), Some(150.0));
        assert_eq!(lateness_us(&reply, "99"), Some(400.0));
        assert_eq!(lateness_us(&reply, "90"), None);
    }
}
