//! Whole numbers that flags take, each within its bounds.

use std::ops::RangeInclusive;

use fracas_dataplane::proxy::THREADS_MAX;
use fracas_dataplane::units::parse_count;

/// Reads a whole number for a flag, and names the bounds to who writes something else.
pub fn whole<T>(
    bounds: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<u64> + Into<u64> + Copy + Send + Sync + 'static,
{
    let bounds: RangeInclusive<u64> = (*bounds.start()).into()..=(*bounds.end()).into();
    move |text| {
        let number = parse_count(text).filter(|number| bounds.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("write a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// Worker threads of a load.
pub fn threads(text: &str) -> Result<u32, String> {
    whole(1..=u32::try_from(THREADS_MAX).unwrap_or(u32::MAX))(text)
}

/// What random draws come from.
pub fn seed(text: &str) -> Result<u64, String> {
    whole(0..=u64::MAX)(text)
}

/// Connections of a load.
pub fn connections(text: &str) -> Result<u32, String> {
    whole(1..=u32::MAX)(text)
        .map_err(|why| if text.trim() == "0" { format!("a request needs a connection; {why}") } else { why })
}

/// Requests of a load.
pub fn requests(text: &str) -> Result<u64, String> {
    whole(1..=u64::MAX)(text).map_err(|why| match text.trim() {
        "0" => format!("a run of no requests measures nothing; {why}, or -d TIME for as many as fit"),
        _ => why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_does_not_fit_is_told_its_bounds() {
        assert_eq!(
            (requests("1"), connections("7"), threads("1024"), seed("0")),
            (Ok(1), Ok(7), Ok(1024), Ok(0))
        );
        assert_eq!((seed("18446744073709551615"), connections("4294967295")), (Ok(u64::MAX), Ok(u32::MAX)));
        for text in ["", "-1", "x", "1.5", "1e3", "99999999999999999999", "1,000"] {
            for (refusal, bounds) in [
                (requests(text).map(drop), "from 1 to 18446744073709551615"),
                (connections(text).map(drop), "from 1 to 4294967295"),
                (threads(text).map(drop), "from 1 to 1024"),
                (seed(text).map(drop), "from 0 to 18446744073709551615"),
            ] {
                assert_eq!(refusal, Err(format!("write a whole number {bounds}")), "{text}");
            }
        }
        assert!(threads("1025").is_err() && threads("0").is_err() && connections("4294967296").is_err());
        assert!(requests("0").unwrap_err().contains("or -d TIME"));
        assert!(connections("0").unwrap_err().contains("needs a connection; write a whole number from 1"));
    }
}
