//! Time, in one unit: unix milliseconds.

use jiff::Timestamp;

/// Now, in unix milliseconds.
#[must_use]
pub fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// ISO 8601 in UTC with milliseconds and `Z`, as `2026-11-21T09:00:00.000Z` (contract admin §1). A time outside the
/// calendar's range reads as its nearest end.
#[must_use]
pub fn iso(millis: i64) -> String {
    let nearest = if millis < 0 { Timestamp::MIN } else { Timestamp::MAX };
    format!("{:.3}", Timestamp::from_millisecond(millis).unwrap_or(nearest))
}

/// Reads RFC 3339, with any number of fractional digits, into unix milliseconds. Only UTC (`Z`) is taken.
#[must_use]
pub fn parse_iso(text: &str) -> Option<i64> {
    if !text.ends_with('Z') || text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_both_ways() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_251_661_007, "2026-11-21T09:01:01.007Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(iso(millis), text);
            assert_eq!(parse_iso(text), Some(millis));
        }
        assert_eq!(parse_iso("2026-11-21T09:01:01Z"), Some(1_795_251_661_000));
        assert_eq!(parse_iso("2026-11-21T09:01:01.123456789Z"), Some(1_795_251_661_123));
        for wrong in ["", "2026-02-30T00:00:00Z", "2026-11-21 09:01:01Z", "2026-11-21T09:01:01"] {
            assert_eq!(parse_iso(wrong), None, "{wrong}");
        }
    }
}
