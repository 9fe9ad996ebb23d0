//! Which of the sorted values a percentile is: a rank, counted in whole numbers. No rank goes through a float, so every
//! output that shows a percentile shows the same value.

use std::fmt;
use std::str::FromStr;

/// A share of the values, exact to a ten-millionth of a per cent: p99.99999 is the finest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantile {
    parts: u64,
}

/// Parts in the whole.
const WHOLE: u64 = 1_000_000_000;
/// Parts in a per cent.
const PERCENT: u64 = WHOLE / 100;
/// Digits behind the point that a per cent may have.
const DIGITS_MAX: usize = 7;

impl Quantile {
    /// Half of the values.
    pub const P50: Quantile = Quantile { parts: 50 * PERCENT };
    /// Three quarters.
    pub const P75: Quantile = Quantile { parts: 75 * PERCENT };
    /// Nine of ten.
    pub const P90: Quantile = Quantile { parts: 90 * PERCENT };
    /// 95 %.
    pub const P95: Quantile = Quantile { parts: 95 * PERCENT };
    /// 99 %.
    pub const P99: Quantile = Quantile { parts: 99 * PERCENT };
    /// 99.9 %.
    pub const P99_9: Quantile = Quantile { parts: 999 * PERCENT / 10 };
    /// 99.99 %.
    pub const P99_99: Quantile = Quantile { parts: 9_999 * PERCENT / 100 };

    /// The nearest to a number of per cent, such as 99.9; what is no share becomes the nearest end.
    pub fn from_percent(percent: f64) -> Quantile {
        // A float saturates as an integer, and NaN is 0.
        Quantile { parts: ((percent * PERCENT as f64).round() as u64).clamp(1, WHOLE) }
    }

    /// The rank of its value among `total` sorted ones, from 1: the smallest rank with at least this share of the
    /// values at or below it. 0 of none.
    pub fn rank(self, total: u64) -> u64 {
        (u128::from(self.parts) * u128::from(total)).div_ceil(u128::from(WHOLE)) as u64
    }

    /// With fewer values than this, fewer than ten lie above it: one more outlier would move it.
    pub fn values_needed(self) -> u64 {
        (10 * WHOLE).div_ceil((WHOLE - self.parts).max(1))
    }
}

impl FromStr for Quantile {
    type Err = ();

    /// Reads per cent: `99`, `99.9`; above 0, at most 100.
    fn from_str(text: &str) -> Result<Quantile, ()> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || fraction.len() > DIGITS_MAX {
            return Err(());
        }
        if !digits(whole) || !digits(fraction) || text.ends_with('.') {
            return Err(());
        }
        let parts: u64 = format!("{whole}{fraction:0<DIGITS_MAX$}").parse().map_err(drop)?;
        if (1..=WHOLE).contains(&parts) { Ok(Quantile { parts }) } else { Err(()) }
    }
}

impl fmt::Display for Quantile {
    /// `p99.9`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.parts / PERCENT, self.parts % PERCENT);
        match fraction {
            0 => write!(f, "p{whole}"),
            _ => write!(f, "p{whole}.{}", format!("{fraction:0DIGITS_MAX$}").trim_end_matches('0')),
        }
    }
}

/// A step of HdrHistogram's percentile table: steps of one size up to 50 %, then half that size up to 75 %, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What is left above it is `above / whole`.
    above: u128,
    whole: u128,
}

impl Step {
    /// The steps from 0 on, `ticks` in each half of what is left above. Endless: 100 % is not among them.
    pub(super) fn ladder(ticks: u32) -> impl Iterator<Item = Step> {
        let ticks = u128::from(ticks);
        // Beyond 2⁻⁹⁶ of the values there is no value.
        (0..96_u32).flat_map(move |half| {
            (0..ticks).map(move |tick| Step { above: 2 * ticks - tick, whole: (2 * ticks) << half })
        })
    }

    /// As for [`Quantile::rank`], but at least 1.
    pub(super) fn rank(self, total: u64) -> u64 {
        (total - self.count_above(total)).max(1)
    }

    /// From 0 to 1, the nearest float.
    pub(super) fn as_f64(self) -> f64 {
        (self.whole - self.above) as f64 / self.whole as f64
    }

    /// 1 ÷ (1 − quantile).
    pub(super) fn one_in(self) -> f64 {
        self.whole as f64 / self.above as f64
    }

    fn count_above(self, total: u64) -> u64 {
        (u128::from(total) * self.above / self.whole) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_whole_numbers_rounded_up() {
        for (text, total, rank) in [
            ("50", 1, 1),
            ("50", 2, 1),
            ("50", 3, 2),
            ("90", 10, 9),
            ("90", 100, 90),
            ("90", 101, 91),
            ("95", 20, 19),
            ("99.9", 18_000, 17_982),
            ("99.9", 1000, 999),
            ("99.99", 10_000, 9_999),
            ("100", 7, 7),
            ("0.0000001", 5, 1),
            ("99", 0, 0),
        ] {
            assert_eq!(text.parse::<Quantile>().unwrap().rank(total), rank, "{text} of {total}");
        }
        assert_eq!(Quantile::P99_99.rank(u64::MAX), 18_444_899_399_302_180_660);
    }

    #[test]
    fn floats_become_the_same_quantiles() {
        for (percent, quantile) in
            [(50.0, Quantile::P50), (95.0, Quantile::P95), (99.9, Quantile::P99_9), (99.99, Quantile::P99_99)]
        {
            assert_eq!(Quantile::from_percent(percent), quantile);
        }
        assert_eq!(Quantile::from_percent(f64::NAN).parts, 1);
        assert_eq!(Quantile::from_percent(1e9).parts, WHOLE);
    }

    #[test]
    fn text_is_read_exactly_or_refused() {
        for text in ["99", "99.9", "100", "0.5", "99.9999999"] {
            assert_eq!(text.parse::<Quantile>().unwrap().to_string(), format!("p{text}"));
        }
        for text in ["", "0", "0.0", "100.1", "101", "-5", "1e1", "99.", ".5", "99.99999999", "inf", "+9"] {
            assert!(text.parse::<Quantile>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_percentile_needs_ten_values_above_it() {
        let needed = [Quantile::P50, Quantile::P90, Quantile::P99_9].map(Quantile::values_needed);
        assert_eq!(needed, [20, 100, 10_000]);
    }

    #[test]
    fn the_ladder_halves_what_is_left() {
        let steps: Vec<f64> = Step::ladder(5).take(13).map(Step::as_f64).collect();
        let expected = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.775, 0.8];
        assert_eq!(steps, expected);
        // The ranks of the ladder are those of the quantile, on every small count.
        for (percent, place) in [("50", 5), ("75", 10), ("90", 17), ("95", 22)] {
            let (step, quantile) =
                (Step::ladder(5).nth(place).unwrap(), percent.parse::<Quantile>().unwrap());
            for total in (1..=1000).chain([u64::MAX / 2 - 1, u64::MAX - 1]) {
                assert_eq!(step.rank(total), quantile.rank(total), "{percent} % of {total}");
            }
        }
    }
}
