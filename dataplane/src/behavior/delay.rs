//! Holds what passes for a while: each message where a protocol is known, else each chunk from its arrival.
//!
//! Order is kept and the hold counts from arrival, so bandwidth is unchanged until the pipe holds its bound.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::RngExt as _;
use rand_distr::StandardNormal;

use super::options::{OPTION_DURATION_MAX, OptionKind, OptionSpec, Options, duration};
use super::{
    BehaviorError, ClientView, Direction, Effect, Kind, LiveChange, Misbehave, Place, Side, Unit, When,
};
use crate::rng::Rng;
use crate::units::duration_text;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "delay",
    aliases: &["latency"],
    summary: "holds each message, or each chunk from its arrival; order and bandwidth stay",
    options: &[
        OptionSpec {
            name: "time",
            aliases: &[("sleep", "s"), ("latency", "ms")],
            kind: OptionKind::Distribution,
            default: "1s",
            doc: "how long to hold: fixed, uniform(from,to), or normal(mean,deviation) cut off at 0",
            example: "200ms",
        },
        OptionSpec {
            name: "jitter",
            aliases: &[("jitter", "ms")],
            kind: OptionKind::Duration,
            default: "0",
            doc: "spreads a fixed time evenly by this much to either side",
            example: "20ms",
        },
        OptionSpec {
            name: "side",
            aliases: &[],
            kind: OptionKind::OneOf(&["request", "reply", "both"]),
            default: "request",
            doc: "what is held: requests, replies, or both",
            example: "reply",
        },
    ],
    built: true,
    client: ClientView::HELD,
    live_change: LiveChange { bytes: When::NextChunk, messages: When::NextMessage },
    lifted: "what is held leaves when it was due",
};

/// The settings of a delay.
#[derive(Clone, Debug, PartialEq)]
pub struct Delay {
    /// How long to hold.
    pub time: Distribution,
    /// What is held.
    pub side: Side,
}

/// A random duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Fixed(Duration),
    /// Evenly between the two, both included.
    Uniform(Duration, Duration),
    /// Gaussian with this mean and standard deviation; draws below 0 become 0.
    Normal(Duration, Duration),
}

impl Misbehave for Delay {
    fn parse(options: &Options<'_>) -> Result<Delay, BehaviorError> {
        let mut time = options.distribution("time")?;
        let jitter = options.duration("jitter")?;
        if jitter > Duration::ZERO {
            let Distribution::Fixed(middle) = time else {
                return Err(options.refuse("jitter", "…", "left out when time is a distribution itself"));
            };
            let latest = middle + jitter;
            if latest > OPTION_DURATION_MAX {
                let text = duration_text(jitter);
                return Err(options.refuse(
                    "jitter",
                    &text,
                    "so little that time and jitter stay within 24h",
                ));
            }
            time = Distribution::Uniform(middle.saturating_sub(jitter), latest);
        }
        Ok(Delay { time, side: options.one_of("side", &[Side::Request, Side::Reply, Side::Both])? })
    }

    fn option_text(&self, option: &str) -> String {
        match option {
            "time" => self.time.to_string(),
            // It has become a part of the time.
            "jitter" => "0".to_owned(),
            "side" => self.side.word().to_owned(),
            other => unreachable!("`delay` has no option `{other}`"),
        }
    }

    fn place(&self) -> Place {
        Place::Holds(self.side)
    }

    fn decide(&self, unit: Unit, rng: &mut Rng, _: &AtomicU64) -> Effect {
        // Both draws are made in any case, so that changing the side does not change the times.
        let mut hold = |direction| {
            let time = self.time.sample(rng);
            if self.side.covers(direction) { time } else { Duration::ZERO }
        };
        match unit {
            Unit::Connection => Effect::Nothing,
            Unit::Chunk(direction) => {
                let time = hold(direction);
                Effect::Hold { request: time, reply: time }
            }
            Unit::Exchange => {
                Effect::Hold { request: hold(Direction::Request), reply: hold(Direction::Reply) }
            }
        }
    }
}

impl fmt::Display for Distribution {
    /// Writes what [`Distribution::parse`] reads.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |name, a, b| format!("{name}({},{})", duration_text(a), duration_text(b));
        formatter.write_str(&match *self {
            Distribution::Fixed(time) => duration_text(time),
            Distribution::Uniform(from, to) => pair("uniform", from, to),
            Distribution::Normal(mean, deviation) => pair("normal", mean, deviation),
        })
    }
}

impl Distribution {
    /// Reads `50ms`, `uniform(10ms,50ms)` or `normal(50ms,10ms)`; a bare number has `bare_unit`.
    pub fn parse(text: &str, bare_unit: &str) -> Option<Distribution> {
        let Some((name, rest)) = text.split_once('(') else {
            return duration(text, bare_unit).map(Distribution::Fixed);
        };
        let (a, b) = rest.strip_suffix(')')?.split_once(',')?;
        let (a, b) = (duration(a, bare_unit)?, duration(b, bare_unit)?);
        match name.trim() {
            "uniform" if a <= b => Some(Distribution::Uniform(a, b)),
            "normal" => Some(Distribution::Normal(a, b)),
            _ => None,
        }
    }

    /// Draws one duration.
    pub fn sample(&self, rng: &mut Rng) -> Duration {
        match *self {
            Distribution::Fixed(time) => time,
            Distribution::Uniform(from, to) => from + rng.duration_up_to(to - from),
            Distribution::Normal(mean, deviation) => {
                let z: f64 = rng.sample(StandardNormal);
                let seconds = mean.as_secs_f64() + deviation.as_secs_f64() * z;
                Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(OPTION_DURATION_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn distributions_are_read_as_written() {
        for (text, expected) in [
            ("50ms", Some(Distribution::Fixed(50 * MS))),
            ("uniform(10ms,50ms)", Some(Distribution::Uniform(10 * MS, 50 * MS))),
            ("uniform( 10ms , 50ms )", Some(Distribution::Uniform(10 * MS, 50 * MS))),
            ("uniform(1s500ms,1m 30s)", Some(Distribution::Uniform(1500 * MS, 90_000 * MS))),
            ("normal(50ms,10ms)", Some(Distribution::Normal(50 * MS, 10 * MS))),
            ("uniform(50ms,10ms)", None),
            ("uniform(50ms)", None),
            ("uniform(1ms,2ms", None),
            ("pareto(1ms,2ms)", None),
            ("fast", None),
        ] {
            assert_eq!(Distribution::parse(text, ""), expected, "{text}");
        }
    }

    #[test]
    fn draws_have_the_mean_and_the_bounds_that_were_asked() {
        let mut rng = Rng::new(3);
        let mut mean_ms = |distribution: Distribution, from: Duration, to: Duration| {
            let draws: Vec<Duration> = (0..20_000).map(|_| distribution.sample(&mut rng)).collect();
            assert!(draws.iter().all(|draw| (from..=to).contains(draw)), "{distribution:?}");
            draws.iter().sum::<Duration>().as_secs_f64() * 1e3 / draws.len() as f64
        };
        assert_eq!(mean_ms(Distribution::Fixed(7 * MS), 7 * MS, 7 * MS).round(), 7.0);
        // Uniform 10..50: σ of the mean of 20,000 is 0.08 ms.
        let uniform = mean_ms(Distribution::Uniform(10 * MS, 50 * MS), 10 * MS, 50 * MS);
        assert!((29.5..30.5).contains(&uniform), "{uniform}");
        let normal = mean_ms(Distribution::Normal(50 * MS, 10 * MS), Duration::ZERO, 120 * MS);
        assert!((49.5..50.5).contains(&normal), "{normal}");
        // Half of the draws around 0 are cut off; the mean of the rest is σ/√(2π) = 3.99 ms.
        let cut = mean_ms(Distribution::Normal(Duration::ZERO, 10 * MS), Duration::ZERO, 70 * MS);
        assert!((3.8..4.2).contains(&cut), "{cut}");
    }
}
