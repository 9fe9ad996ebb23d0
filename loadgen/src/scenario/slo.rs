//! What must hold for a run to pass: `p99<50ms`, `service.p50<5ms`, `errors<0.1%`, `rate>19k/s`.

use std::fmt;
use std::str::FromStr;

use fracas_dataplane::units::{UnitError, duration_meant, parse_duration, parse_percent, rate_meant};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::measure::Quantile;
use crate::report::format::{latency_in, rate_in, share_in};

/// One of the three series every report keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesName {
    /// Reply − due: what a user waits. Meant when no series is named.
    Response,
    /// Reply − sent: what the target and the network took.
    Service,
    /// Sent − due: how late the generator was.
    Lag,
}

impl SeriesName {
    /// The three, in the order reports use.
    pub const ALL: [SeriesName; 3] = [SeriesName::Response, SeriesName::Service, SeriesName::Lag];

    /// As written in files and tags.
    pub const fn name(self) -> &'static str {
        match self {
            SeriesName::Response => "response",
            SeriesName::Service => "service",
            SeriesName::Lag => "lag",
        }
    }
}

/// Which of the requests a percentile is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// All that were due: nothing slow is left out.
    All,
    /// Good replies alone, written `{ok}`: an error that comes fast makes nothing look quick.
    Ok,
}

/// Which of the failures are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// All of them.
    Any,
    /// Those that no proxy injected, written `{natural}`.
    Natural,
    /// Those that a proxy injected, written `{injected}`.
    Injected,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// A percentile of a series.
    Percentile(SeriesName, Replies, Quantile),
    /// The largest value of a series.
    Max(SeriesName, Replies),
    /// Share of due requests that failed or timed out, or that were never sent at all.
    ErrorRatio(Cause),
    /// Good replies a second of the measured time.
    RatePerSecond,
}

/// How it is compared with the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

/// One objective: metric, comparison, bound. Displays as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// What is compared.
    pub metric: Metric,
    /// How.
    pub comparison: Comparison,
    /// Nanoseconds for a latency, a ratio for errors, requests a second for a rate.
    pub bound: f64,
    text: String,
}

/// Why an objective was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SloError {
    /// No comparison sign.
    #[error("`{0}` compares nothing; write METRIC<BOUND, such as p99<50ms, errors<0.1% or rate>19k/s")]
    Comparison(String),
    /// Left side unknown.
    #[error("`{metric}` is not a metric; {}", metric_advice(metric))]
    Metric {
        /// As written.
        metric: String,
    },
    /// What stands in braces.
    #[error("`{metric}`: {hint}")]
    Filter {
        /// As written.
        metric: String,
        /// What may stand there.
        hint: &'static str,
    },
    /// It can only come out one way.
    #[error("`{0}` {1}; write a bound that a run can keep and miss, such as p99<50ms or errors<0.1%")]
    Decided(String, &'static str),
    /// Right side not understood.
    #[error("`{bound}` is not a bound for {metric}; {hint}")]
    Bound {
        /// As written.
        bound: String,
        /// As written.
        metric: String,
        /// What to write.
        hint: String,
    },
}

impl Slo {
    /// Whether `actual` (in the bound's unit) keeps the objective.
    pub fn holds(&self, actual: f64) -> bool {
        match self.comparison {
            Comparison::Below => actual < self.bound,
            Comparison::AtMost => actual <= self.bound,
            Comparison::Above => actual > self.bound,
            Comparison::AtLeast => actual >= self.bound,
        }
    }

    /// A value of this metric with its unit, as reports write it elsewhere; with more digits where those would say that
    /// the objective came out the other way.
    pub fn format(&self, value: f64) -> String {
        let written = |more| match self.metric {
            Metric::Percentile(..) | Metric::Max(..) => latency_in(value as u64, more),
            Metric::ErrorRatio(_) => share_in(value, more),
            Metric::RatePerSecond => rate_in(value, more),
        };
        let says_the_same = |said: f64| {
            let is_end = |value: f64| value == 0.0 || value == 1.0;
            self.holds(said) == self.holds(value) && (is_end(value) || !is_end(said))
        };
        let fits = (0..MORE_DIGITS_MAX).map(written).find(|(_, said)| says_the_same(*said));
        fits.unwrap_or_else(|| written(MORE_DIGITS_MAX)).0
    }
}

/// Digits that may be needed to tell a value from its bound: more than a double has are never there.
const MORE_DIGITS_MAX: usize = 12;

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Slo, SloError> {
        let text = text.trim();
        let at = text.find(['<', '>']).ok_or_else(|| SloError::Comparison(text.into()))?;
        let (metric_text, rest) = text.split_at(at);
        let (comparison, bound_text) = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Below),
            (">", Comparison::Above),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((comparison, rest.strip_prefix(sign)?.trim())))
        .ok_or_else(|| SloError::Comparison(text.into()))?;
        let metric_text = metric_text.trim();
        let metric = parse_metric(metric_text)?;
        let bound_error = |hint: &str, meant: Option<String>| {
            let hint = meant.map_or_else(|| hint.to_owned(), |meant| format!("did you mean {meant}?"));
            SloError::Bound { bound: bound_text.into(), metric: metric_text.into(), hint }
        };
        let bound = match metric {
            Metric::Percentile(..) | Metric::Max(..) => {
                parse_duration(bound_text).map(|bound| bound.as_nanos() as f64).map_err(|why| match why {
                    UnitError::Duration(_) => {
                        bound_error("write a duration such as 50ms", bound_meant(bound_text))
                    }
                    why => bound_error(&why.to_string(), None),
                })?
            }
            Metric::ErrorRatio(_) => parse_ratio(bound_text)
                .ok_or_else(|| bound_error("write a percentage such as 0.1%", ratio_meant(bound_text)))?,
            Metric::RatePerSecond => {
                bound_text.parse::<super::Rate>().map(super::Rate::as_f64).map_err(|why| match why {
                    UnitError::Rate(_) => bound_error("write a rate such as 19k/s", rate_meant(bound_text)),
                    why => bound_error(&why.to_string(), None),
                })?
            }
        };
        if let Some(why) = decided(metric, comparison, bound) {
            return Err(SloError::Decided(text.to_owned(), why));
        }
        Ok(Slo { metric, comparison, bound, text: text.to_owned() })
    }
}

/// Why an objective comes out the same whatever a run does; `None` for one that says something.
fn decided(metric: Metric, comparison: Comparison, bound: f64) -> Option<&'static str> {
    use Comparison::*;
    const NEVER: &str = "can never be kept";
    const ALWAYS: &str = "is always kept";
    match (metric, comparison) {
        (Metric::ErrorRatio(_), _) if bound > 1.0 => Some("asks for more than 100 %"),
        (Metric::ErrorRatio(_), Below) if bound <= 0.0 => Some(NEVER),
        (Metric::ErrorRatio(_), AtLeast) if bound <= 0.0 => Some(ALWAYS),
        (Metric::ErrorRatio(_), AtMost) if bound >= 1.0 => Some(ALWAYS),
        (Metric::ErrorRatio(_), Above) if bound >= 1.0 => Some(NEVER),
        (Metric::Percentile(..) | Metric::Max(..), Below | AtMost) if bound <= 0.0 => Some(NEVER),
        (Metric::Percentile(..) | Metric::Max(..), Above | AtLeast) if bound <= 0.0 => Some(ALWAYS),
        _ => None,
    }
}

fn parse_metric(text: &str) -> Result<Metric, SloError> {
    let unknown = || SloError::Metric { metric: text.to_owned() };
    let filtered = |hint| SloError::Filter { metric: text.to_owned(), hint };
    let (plain, filter) = match text.split_once('{') {
        Some((plain, rest)) => (plain.trim(), Some(rest.strip_suffix('}').ok_or_else(unknown)?.trim())),
        None => (text, None),
    };
    match (plain, filter) {
        ("errors", None) => return Ok(Metric::ErrorRatio(Cause::Any)),
        ("errors", Some("natural")) => return Ok(Metric::ErrorRatio(Cause::Natural)),
        ("errors", Some("injected")) => return Ok(Metric::ErrorRatio(Cause::Injected)),
        ("errors", Some(_)) => return Err(filtered("write errors, errors{natural} or errors{injected}")),
        ("rate", None) => return Ok(Metric::RatePerSecond),
        ("rate", Some(_)) => return Err(filtered("a rate is of good replies anyway; write rate")),
        _ => {}
    }
    let (series, value) = plain.split_once('.').map_or((SeriesName::Response, plain), |(series, value)| {
        match SeriesName::ALL.into_iter().find(|known| known.name() == series) {
            Some(known) => (known, value),
            // The dot of p99.9 is not a series.
            None => (SeriesName::Response, plain),
        }
    });
    let quantile = match value {
        "max" => None,
        value => Some(value.strip_prefix('p').and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?),
    };
    let replies = match (filter, series) {
        (None, _) => Replies::All,
        (Some(_), SeriesName::Lag) => {
            return Err(filtered(
                "lag is known when a request is sent, whatever its reply; leave the braces away",
            ));
        }
        (Some("ok"), _) => Replies::Ok,
        (Some(_), _) => return Err(filtered("only good replies can be asked for: {ok}")),
    };
    Ok(match quantile {
        Some(quantile) => Metric::Percentile(series, replies, quantile),
        None => Metric::Max(series, replies),
    })
}

/// Metrics as other tools call them, and what comes nearest here.
const MEANT: [(&str, &str); 22] = [
    ("avg", "p50, or p99 for what most users see; a mean hides both"),
    ("mean", "p50, or p99 for what most users see; a mean hides both"),
    ("average", "p50, or p99 for what most users see; a mean hides both"),
    ("med", "p50"),
    ("median", "p50"),
    ("latency", "p99"),
    ("duration", "p99"),
    ("http_req_duration", "p99"),
    ("response", "response.p99"),
    ("service", "service.p99"),
    ("lag", "lag.p99"),
    ("worst", "max"),
    ("error", "errors"),
    ("errs", "errors"),
    ("failed", "errors"),
    ("failures", "errors"),
    ("error_rate", "errors"),
    ("http_req_failed", "errors"),
    ("rps", "rate"),
    ("qps", "rate"),
    ("throughput", "rate"),
    ("http_reqs", "rate"),
];

fn metric_advice(metric: &str) -> String {
    let lower = metric.to_lowercase();
    let digits: String = lower.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    // p(95), P95, 95p, p95th, perc95: a letter p and a number are enough to know.
    let percentile = format!("p{digits}");
    let meant = match MEANT.iter().find(|(theirs, _)| *theirs == lower) {
        Some((_, ours)) => (*ours).to_owned(),
        None if lower.contains('p') && percentile != lower && parse_metric(&percentile).is_ok() => percentile,
        None if lower != metric && parse_metric(&lower).is_ok() => lower,
        None => {
            return "use pNN, max, errors or rate, or SERIES.pNN with response, service or lag".to_owned();
        }
    };
    format!("did you mean {meant}?")
}

/// `200` → `200ms`: without a unit, others mean milliseconds, or seconds.
fn bound_meant(text: &str) -> Option<String> {
    let is_bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let meant = duration_meant(text)?;
    Some(if is_bare { format!("{text}ms, or {meant}") } else { meant })
}

/// `0.001` → `0.001%, or 0.1%`, `5 pct` → `5%`.
fn ratio_meant(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic() || c.is_whitespace());
    let number = parse_percent(digits, "%")?;
    match digits == text {
        // Without a unit, other tools mean a share of one.
        true if number > 0.0 && number < 1.0 => {
            Some(format!("{text}%, or {}%", (number * 1e8).round() / 1e6))
        }
        _ => parse_ratio(&format!("{digits}%")).map(|_| format!("{digits}%")),
    }
}

fn parse_ratio(text: &str) -> Option<f64> {
    parse_percent(text, "").map(|percent| percent / 100.0)
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Slo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Slo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slo, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read() {
        use Comparison::*;
        use Replies::*;
        use SeriesName::*;
        let p = |text: &str| text.parse::<Quantile>().unwrap();
        for (text, metric, comparison, bound) in [
            ("p99<50ms", Metric::Percentile(Response, All, p("99")), Below, 50e6),
            ("p95<50ms", Metric::Percentile(Response, All, p("95")), Below, 50e6),
            ("p99.9 <= 50ms", Metric::Percentile(Response, All, p("99.9")), AtMost, 50e6),
            ("p99{ok}<50ms", Metric::Percentile(Response, Ok, p("99")), Below, 50e6),
            ("service.p50<5ms", Metric::Percentile(Service, All, p("50")), Below, 5e6),
            ("service.p99.9{ok} < 5ms", Metric::Percentile(Service, Ok, p("99.9")), Below, 5e6),
            ("lag.p99.99<1ms", Metric::Percentile(Lag, All, p("99.99")), Below, 1e6),
            ("errors<0.1%", Metric::ErrorRatio(Cause::Any), Below, 0.001),
            ("errors<=0%", Metric::ErrorRatio(Cause::Any), AtMost, 0.0),
            ("errors{natural}<1%", Metric::ErrorRatio(Cause::Natural), Below, 0.01),
            ("errors{injected}>4%", Metric::ErrorRatio(Cause::Injected), Above, 0.04),
            ("rate>19k/s", Metric::RatePerSecond, Above, 19_000.0),
            ("rate>19k", Metric::RatePerSecond, Above, 19_000.0),
            ("rate>=300/min", Metric::RatePerSecond, AtLeast, 5.0),
            ("max<1s", Metric::Max(Response, All), Below, 1e9),
            ("max{ok}<1s", Metric::Max(Response, Ok), Below, 1e9),
            ("lag.max<1s", Metric::Max(Lag, All), Below, 1e9),
        ] {
            let slo: Slo = text.parse().unwrap();
            assert_eq!((slo.metric, slo.comparison, slo.bound), (metric, comparison, bound), "{text}");
            assert_eq!(slo.to_string(), text);
        }
    }

    #[test]
    fn wrong_objectives_say_what_to_write() {
        for (text, part) in [
            ("p99", "compares nothing"),
            ("p101<5ms", "is not a metric"),
            ("p0<5ms", "is not a metric"),
            ("pinf<5ms", "is not a metric"),
            ("speed<5ms", "is not a metric"),
            ("latency.p99<5ms", "is not a metric"),
            ("p99<5", "did you mean 5ms, or 5s?"),
            ("p99<fast", "write a duration"),
            ("errors<0.1", "did you mean 0.1%, or 10%?"),
            ("errors<NaN%", "write a percentage"),
            ("rate>fast", "write a rate"),
            ("errors<101%", "more than 100 %"),
            ("errors>=101%", "more than 100 %"),
            ("errors<0%", "can never be kept"),
            ("errors>100%", "can never be kept"),
            ("errors<=100%", "is always kept"),
            ("errors>=0%", "is always kept"),
            ("p99<0", "can never be kept"),
            ("p99<=0s", "can never be kept"),
            ("p99>0ms", "is always kept"),
            ("max{ok}<0", "can never be kept"),
            ("rate>0/s", "a rate must be above 0"),
            ("p99<99999999999h", "give at most 5124095h"),
            ("rate>99999999999999999999M/s", "to 1000M/s"),
            ("p99{natural}<5ms", "only good replies"),
            ("p99{ok<5ms", "is not a metric"),
            ("lag.p99{ok}<5ms", "whatever its reply"),
            ("errors{ok}<1%", "errors{natural} or errors{injected}"),
            ("rate{ok}>5/s", "good replies anyway"),
            ("p-99<5ms", "is not a metric"),
            ("avg<5ms", "did you mean p50, or p99"),
            ("Median<5ms", "did you mean p50?"),
            ("p(95)<500ms", "did you mean p95?"),
            ("P99.9<500ms", "did you mean p99.9?"),
            ("95p<500ms", "did you mean p95?"),
            ("error_rate<1%", "did you mean errors?"),
            ("rps>500", "did you mean rate?"),
            ("service<5ms", "did you mean service.p99?"),
            ("p99<200", "did you mean 200ms, or 200s?"),
            ("p99<5 sec", "did you mean 5s?"),
            ("errors<0.001", "did you mean 0.001%, or 0.1%?"),
            ("errors<5", "did you mean 5%?"),
            ("rate>500rps", "did you mean 500/s?"),
        ] {
            let error = text.parse::<Slo>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_is_written_as_in_the_tables_unless_that_would_contradict_what_became_of_it() {
        use crate::report::{latency, rate};
        for ns in [7.0, 999.0, 152_345.0, 49_870_000.0, 87_345_678.0, 1_304_999_999.0] {
            let slo: Slo = "p99<50ms".parse().unwrap();
            assert_eq!(slo.format(ns), latency(ns as u64));
        }
        for per_second in [0.3, 12.34, 2_999.84, 18_950.0] {
            assert_eq!("rate>19k/s".parse::<Slo>().unwrap().format(per_second), rate(per_second));
        }
        for (slo, value, written) in [
            ("p99<50ms", 50_040_000.0, "50.0 ms"),
            ("p99<50ms", 49_960_000.0, "49.96 ms"),
            ("p99<50ms", 49_999_999.0, "49.999999 ms"),
            ("p99<=50ms", 50_040_000.0, "50.04 ms"),
            ("p99<=50ms", 50_000_001.0, "50.000001 ms"),
            ("max<1s", 999_900_000.0, "0.9999 s"),
            ("errors<0.1%", 0.0012, "0.12 %"),
            ("errors<0.1%", 0.00099, "0.099 %"),
            ("errors<1%", 0.000_004, "0.0004 %"),
            ("errors>=0.1%", 0.000_999_5, "0.0999 %"),
            ("errors<1%", 0.0, "0.00 %"),
            ("errors<1%", 1.0, "100.00 %"),
            ("errors<1%", 0.999_999, "99.9999 %"),
            ("rate>19k/s", 19_000.04, "19,000.04/s"),
            ("rate>=19k/s", 18_999.96, "18,999.96/s"),
            ("rate>=2/s", 1.999, "1.999/s"),
        ] {
            assert_eq!(slo.parse::<Slo>().unwrap().format(value), written, "{slo} {value}");
        }
    }

    #[test]
    fn the_bound_itself_belongs_to_at_most_only() {
        let holds = |text: &str| text.parse::<Slo>().unwrap().holds(50e6);
        assert!(!holds("p99<50ms") && holds("p99<=50ms") && !holds("p99>50ms") && holds("p99>=50ms"));
    }
}
