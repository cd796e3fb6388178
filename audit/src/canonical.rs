//! Canonical JSON (RFC 8785): one value, one text, so that it can be hashed.
//!
//! Integers keep all their digits, also beyond the 53 bits that RFC 8785 knows: two different numbers must never have
//! the same hash.

use serde_json::{Number, Value};
use std::cmp::Ordering;
use std::fmt::{Display, Write as _};

/// The canonical text of a value.
#[must_use]
pub fn to_text(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value);
    text
}

/// Writes a value behind what is there.
pub(crate) fn write(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(bool) => text.push_str(if *bool { "true" } else { "false" }),
        Value::String(string) => {
            write_string(text, string);
        }
        Value::Number(number) => write_number(text, number),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| compare(a, b));
            text.push('{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_string(text, name);
                text.push(':');
                write(text, member);
            }
            text.push('}');
        }
    }
}

/// By UTF-16 code units, which is the order of the bytes where all are ASCII.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

/// Writes a string. Answers whether it stands there as it is, between its quotes.
pub(crate) fn write_string(text: &mut String, string: &str) -> bool {
    let is_plain = !string.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\'));
    if is_plain {
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        text.push_str(&Value::from(string).to_string());
    }
    is_plain
}

/// Writes an integer, of any width.
pub(crate) fn write_integer(text: &mut String, integer: impl Display) {
    let _ = write!(text, "{integer}");
}

/// A number as ECMAScript writes it.
fn write_number(text: &mut String, number: &Number) {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        text.push_str(&number.to_string());
        return;
    };
    if float == 0.0 {
        text.push('0');
        return;
    }
    // Shortest digits that read back as the same number, as `d.ddde-7`.
    let scientific = format!("{:e}", float.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // Where the point stands, counted from the first digit.
    let point = exponent.parse::<i32>().unwrap_or(0) + 1;
    if float < 0.0 {
        text.push('-');
    }
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let split = |at: i32| digits.split_at_checked(usize::try_from(at).unwrap_or(0)).unwrap_or((&digits, ""));
    match point {
        point if count <= point && point <= 21 => {
            text.push_str(&digits);
            text.push_str(&zeros(point - count));
        }
        point if 0 < point && point <= 21 => {
            let (whole, fraction) = split(point);
            let _ = write!(text, "{whole}.{fraction}");
        }
        point if -6 < point && point <= 0 => {
            let _ = write!(text, "0.{}{digits}", zeros(-point));
        }
        point => {
            let (first, rest) = split(1);
            let dot = if rest.is_empty() { "" } else { "." };
            let _ = write!(text, "{first}{dot}{rest}e{:+}", point - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_8785_3_2_2_numbers() {
        let cases: [(f64, &str); 15] = [
            (0.0, "0"),
            (-0.0, "0"),
            (5e-324, "5e-324"),
            (-5e-324, "-5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (295_147_905_179_352_830_000.0, "295147905179352830000"),
            (9.999_999_999_999_997e22, "9.999999999999997e+22"),
            (1e23, "1e+23"),
            (999_999_999_999_999_700_000.0, "999999999999999700000"),
            (1e21, "1e+21"),
            (333_333_333.333_333_2, "333333333.3333332"),
            (0.000_001, "0.000001"),
            (1e-7, "1e-7"),
            (4.5, "4.5"),
        ];
        for (number, text) in cases {
            assert_eq!(to_text(&serde_json::json!(number)), text);
        }
        assert_eq!(to_text(&serde_json::json!(u64::MAX)), "18446744073709551615");
    }

    #[test]
    fn rfc_8785_3_2_3_members_in_the_order_of_utf_16() {
        let value: Value = serde_json::from_str(
            r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":[{"b":1, "a":"\u000F\n\"\\/"}]}"#,
        )
        .unwrap();
        let expected = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":[{\"a\":\"\\u000f\\n\\\"\\\\/\",\"b\":1}],\"€\":1,\"😀\":5,\"\u{fb33}\":3}";
        assert_eq!(to_text(&value), expected);
    }

    proptest! {
        #[test]
        fn a_canonical_number_reads_back_as_itself(bits: u64) {
            let float = f64::from_bits(bits);
            prop_assume!(float.is_finite());
            let text = to_text(&serde_json::json!(float));
            prop_assert_eq!(text.parse::<f64>().unwrap(), float);
        }
    }
}
