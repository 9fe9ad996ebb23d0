//! For how long a planned fault holds a request, and whether that is what its timeout came from.

use std::time::Duration;

use fracas_dataplane::behavior::{Behavior, Distribution, Kind, mix};

use super::model::Fault;

impl Fault {
    /// The shortest and the longest time for which its delays hold a request; `None` where it has none, or none that can be
    /// read.
    pub fn held_for(&self) -> Option<(Duration, Duration)> {
        let rules = mix::parse(&self.behavior, &self.options).ok()?;
        let bounds = |behavior: Behavior| match behavior {
            Behavior::Delay(delay) => Some(match delay.time {
                Distribution::Fixed(time) => (time, time),
                Distribution::Uniform(from, to) => (from, to),
                // Draws below 0 become 0, and there is no longest.
                Distribution::Normal(_, deviation) if !deviation.is_zero() => (Duration::ZERO, Duration::MAX),
                Distribution::Normal(mean, _) => (mean, mean),
            }),
            _ => None,
        };
        let all = rules.into_iter().filter_map(|rule| bounds(rule.behavior));
        all.reduce(|(from, to), (other_from, other_to)| (from.min(other_from), to.max(other_to)))
    }
}

/// Whether a hold is what a timeout came from: it took half of the timeout or more.
pub fn is_cause(held: Duration, timeout: Duration) -> bool {
    held.saturating_mul(2) >= timeout
}

/// The names of the behaviors in a mix such as `20:latency,5:error`, in our own words.
pub fn behaviors_of(mix: &str) -> impl Iterator<Item = &'static str> {
    let kinds =
        mix.split(',').filter_map(|part| Kind::find(part.rsplit(':').next().unwrap_or_default().trim()));
    kinds.map(|kind| kind.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_known_to_hold_from_so_long_to_so_long() {
        let ms = Duration::from_millis;
        for (behavior, options, expected) in [
            ("20:delay", &[("time", "250ms")][..], Some((ms(250), ms(250)))),
            ("20:delay", &[], Some((ms(1_000), ms(1_000)))),
            ("20:latency", &[("sleep", "2")], Some((ms(2_000), ms(2_000)))),
            ("delay", &[("time", "300ms"), ("jitter", "100ms")], Some((ms(200), ms(400)))),
            ("delay", &[("time", "uniform(1s,2s)")], Some((ms(1_000), ms(2_000)))),
            ("delay", &[("time", "normal(1s,100ms)")], Some((Duration::ZERO, Duration::MAX))),
            ("delay", &[("time", "what")], None),
            ("5:hang", &[], None),
        ] {
            let values = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let name = behavior.rsplit(':').next().unwrap_or_default();
            let options = match behavior.contains("hang") {
                true => [].into(),
                false => [(name.to_owned(), values.collect())].into(),
            };
            let (proxy, behavior) = ("cache".to_owned(), behavior.to_owned());
            let fault = Fault { proxy, behavior, options, at: Duration::ZERO, over: ms(1) };
            assert_eq!(fault.held_for(), expected, "{} {:?}", fault.behavior, fault.options);
        }
    }

    #[test]
    fn other_names_are_ours() {
        assert_eq!(
            behaviors_of("20:latency, 5:error,normal,nope").collect::<Vec<_>>(),
            ["delay", "error", "normal"]
        );
    }
}
