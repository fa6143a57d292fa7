//! A deadline that the client asks for, in a header.

use std::time::Duration;

use ::http::HeaderValue;

/// `250ms`: up to nine digits and a unit. None if it is anything else.
pub(super) fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    if !(1..=9).contains(&digits.len()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &'static str) -> Option<Duration> {
        parse(&HeaderValue::from_static(text))
    }

    #[test]
    fn a_time_is_digits_and_a_unit() {
        assert_eq!(parsed("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parsed(" 2s "), Some(Duration::from_secs(2)));
        assert_eq!(
            parsed("999999999us"),
            Some(Duration::from_micros(999_999_999))
        );
        assert_eq!(parsed("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            "s",
            "5",
            "5 s",
            "-5s",
            "1.5s",
            "5m",
            "5S",
            "1234567890s",
            "5sms",
            "ms5",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(parse(&HeaderValue::from_bytes(b"5\xffs").unwrap()), None);
    }
}
