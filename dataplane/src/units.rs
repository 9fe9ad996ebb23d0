//! Numbers with units, as people write them in files, flags and calls of the API: `150ms`, `1h30m`, `64KiB`, `8Mbit/s`,
//! `20k/s`, `0.5%`. Proxy, load and command line all read and write them here, so that a text means the same everywhere.
//!
//! Reading is exact: no value but a percentage goes through a float, so `0.3/s` is three arrivals in ten seconds and not
//! 0.299999…. What is written reads back as the same value. Who needs closer bounds than those here checks them itself.

mod bytes;
#[cfg(test)]
mod cases;
mod count;
mod decimal;
mod duration;
mod meant;
mod rate;

pub use bytes::{byte_rate_text, bytes_text, parse_byte_rate, parse_bytes, parse_bytes_up_to};
pub use count::{parse_count, parse_percent};
pub use decimal::gcd;
pub use duration::{DURATION_MAX, duration_text, exact_duration_text, parse_duration, parse_duration_in};
pub use meant::{duration as duration_meant, rate as rate_meant};
pub use rate::Rate;

/// What was meant, or how it is written.
fn advice(meant: Option<String>, written: &str) -> String {
    meant.map_or_else(|| written.to_owned(), |meant| format!("did you mean {meant}?"))
}

/// Why a number with a unit was not understood; the text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is not a duration; {advice}", advice = advice(meant::duration(.0), "write a number and ns, us, ms, s, m or h, such as 150ms"))]
    Duration(String),
    /// A duration that is no whole number of nanoseconds.
    #[error("`{0}` is finer than a nanosecond; give a whole number of ns")]
    DurationFine(String),
    /// A duration that 64 bits of nanoseconds do not hold.
    #[error("`{0}` is too long; give at most {DURATION_MAX}")]
    DurationLong(String),
    /// Not a rate.
    #[error("`{0}` is not a rate; {advice}", advice = advice(meant::rate(.0), "write a number, k or M if you like, and /s (meant without a unit), /min or /h, such as 20k/s"))]
    Rate(String),
    /// A rate of nothing would never send a request.
    #[error("a rate must be above 0")]
    RateZero,
    /// A rate that two numbers of 64 bits do not hold.
    #[error("`{0}` is out of reach; give a rate from 1/{DURATION_MAX} to 1000M/s")]
    RateRange(String),
    /// Not a number of bytes.
    #[error("`{0}` is not a size; {advice}", advice = advice(meant::bytes(.0), "write a number and B, kB, KiB, MB, MiB, GB or GiB, such as 64KiB"))]
    Bytes(String),
    /// A part of a byte.
    #[error("`{0}` is no whole number of bytes; give one, such as 64KiB")]
    BytesFine(String),
    /// More bytes than are taken.
    #[error("`{0}` is too large; give at most {1}B")]
    BytesLarge(String, u64),
}
