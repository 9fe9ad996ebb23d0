//! Decimal numbers as they are written, exact: `1.4` is 14 / 10.

/// Digits in front of the point: 20 hold any number of 64 bits.
const WHOLE_DIGITS_MAX: usize = 20;
/// Digits behind it; with 20 in front of it, the number still fits 128 bits.
const FRACTION_DIGITS_MAX: usize = 18;

/// A decimal number as written: `digits / scale`, scale a power of ten.
pub(super) struct Decimal {
    pub digits: u128,
    pub scale: u128,
}

/// Why a text is no [`Decimal`].
pub(super) enum NotDecimal {
    /// No digits, or something else among them.
    NoNumber,
    /// More digits behind the point than any unit here has.
    Fine,
    /// More digits in front of it than 64 bits hold.
    Large,
}

impl Decimal {
    pub(super) fn parse(text: &str) -> Result<Decimal, NotDecimal> {
        if !is_decimal(text) {
            return Err(NotDecimal::NoNumber);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        if whole.len() > WHOLE_DIGITS_MAX {
            return Err(NotDecimal::Large);
        }
        if fraction.len() > FRACTION_DIGITS_MAX {
            return Err(NotDecimal::Fine);
        }
        let part = |digits: &str| digits.bytes().fold(0_u128, |sum, b| sum * 10 + u128::from(b - b'0'));
        let scale = fraction.bytes().fold(1_u128, |scale, _| scale * 10);
        Ok(Decimal { digits: part(whole) * scale + part(fraction), scale })
    }

    /// The product with `unit` if it is a whole number. One that does not fit 128 bits has digits finer than the unit.
    pub(super) fn times(&self, unit: u128) -> Option<u128> {
        let divisor = gcd(unit, self.scale);
        let (unit, scale) = (unit / divisor, self.scale / divisor);
        let product = self.digits.checked_mul(unit)?;
        product.is_multiple_of(scale).then(|| product / scale)
    }
}

/// Whether a text is digits with at most one point among them: no sign, no exponent, no `inf`.
pub(super) fn is_decimal(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
}

/// Whether a text is nothing but a zero, which needs no unit.
pub(super) fn is_zero(text: &str) -> bool {
    is_decimal(text) && text.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

/// A number, and what stands behind it.
pub(super) fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// `value / scale` as a decimal; `scale` is a power of ten.
pub(super) fn decimal_text(value: u128, scale: u128) -> String {
    let fraction = value % scale;
    if fraction == 0 {
        return (value / scale).to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{}.{}", value / scale, format!("{fraction:0width$}").trim_end_matches('0'))
}

/// `numerator / denominator` as a decimal, if it ends within [`FRACTION_DIGITS_MAX`] places.
pub(super) fn exact_decimal(numerator: u128, denominator: u128) -> Option<String> {
    let divisor = gcd(numerator, denominator);
    let (numerator, denominator) = (numerator / divisor, denominator / divisor);
    let mut scale: u128 = 1;
    for _ in 0..=FRACTION_DIGITS_MAX {
        if scale.is_multiple_of(denominator) {
            let value = numerator.checked_mul(scale / denominator)?;
            return (value / scale < 10_u128.pow(18)).then(|| decimal_text(value, scale));
        }
        scale *= 10;
    }
    None
}

/// The greatest common divisor; of 0 and a number, that number.
pub fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
