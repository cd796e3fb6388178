//! Request paths: decoded once for the operation floor, and proved free of traversal
//! (contract gateway §A6).
//!
//! The path is percent-decoded until nothing changes. A bad escape, a backslash at any level, or a
//! `.`/`..` segment at the end refuses the request. What callers get is the path decoded exactly
//! once, which is what the STS compares with the operations of a resource.

use std::borrow::Cow;

/// More levels of percent-encoding than any honest client uses. Bounds the work that one path of
/// 16 KiB can cause, because every level costs one pass over the path.
const MAX_DECODE_ROUNDS: usize = 16;

/// Splits a request target into its path and its query (without the `?`).
#[must_use]
pub fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = target.splitn(2, |byte| *byte == b'?');
    (parts.next().unwrap_or_default(), parts.next())
}

/// Why a path is refused. Every variant is answered 400 `path traversal not permitted`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// The path does not start with `/`.
    #[error("path does not start with a slash")]
    NotAbsolute,
    /// A `%` is not followed by two hexadecimal digits, at some level of decoding.
    #[error("path holds a percent sign that is not an escape")]
    BadEscape,
    /// A backslash, raw or escaped.
    #[error("path holds a backslash")]
    Backslash,
    /// A `.` or `..` segment, raw or escaped.
    #[error("path holds a dot segment")]
    DotSegment,
    /// The path is still not stable after many rounds of decoding.
    #[error("path is percent-encoded too many times")]
    EncodedTooOften,
}

/// A path without traversal, decoded once. Its bytes need not be UTF-8.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DecodedPath(Vec<u8>);

impl DecodedPath {
    /// Decodes the raw path (no query) of a request and checks it.
    ///
    /// # Errors
    /// Any [`PathError`].
    pub fn parse(raw: &[u8]) -> Result<Self, PathError> {
        // An absent path means the root.
        let raw: &[u8] = if raw.is_empty() { b"/" } else { raw };
        if raw.first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        refuse_backslash(raw)?;
        let once = percent_decode(raw)?.into_owned();
        refuse_backslash(&once)?;

        let mut current = once.clone();
        for _ in 0..MAX_DECODE_ROUNDS {
            let next = match percent_decode(&current)? {
                Cow::Borrowed(_) => {
                    refuse_dot_segments(&current)?;
                    return Ok(Self(once));
                }
                Cow::Owned(next) => next,
            };
            refuse_backslash(&next)?;
            current = next;
        }
        Err(PathError::EncodedTooOften)
    }

    /// The path, decoded once.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path, decoded once, when it is UTF-8. A path that is not matches no operation.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Percent-decodes once. Borrows when there is nothing to decode.
///
/// # Errors
/// [`PathError::BadEscape`].
pub fn percent_decode(input: &[u8]) -> Result<Cow<'_, [u8]>, PathError> {
    if !input.contains(&b'%') {
        return Ok(Cow::Borrowed(input));
    }
    let mut decoded = Vec::with_capacity(input.len());
    let mut bytes = input.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex_digit).ok_or(PathError::BadEscape)?;
        let low = bytes.next().and_then(hex_digit).ok_or(PathError::BadEscape)?;
        decoded.push(high << 4 | low);
    }
    Ok(Cow::Owned(decoded))
}

/// Escapes a decoded path for a request line: letters, digits and `-_.~$&+,/:;=@` stay, all else
/// becomes an upper-case escape.
#[must_use]
pub fn escape_path(path: &[u8]) -> String {
    let mut escaped = String::with_capacity(path.len());
    escape(&mut escaped, path, &KEPT_IN_PATH, push_escape);
    escaped
}

const KEPT_IN_PATH: Kept = Kept::letters_digits_and(b"-_.~$&+,/:;=@");

/// Bytes of ASCII that stay as they are, by their values.
pub(crate) struct Kept([bool; 128]);

impl Kept {
    /// Letters, digits and these.
    pub(crate) const fn letters_digits_and(others: &[u8]) -> Self {
        let mut kept = [false; 128];
        let mut byte = 0_u8;
        let mut left = kept.as_mut_slice();
        while let Some((is_kept, rest)) = left.split_first_mut() {
            *is_kept = byte.is_ascii_alphanumeric() || holds(others, byte);
            byte = byte.wrapping_add(1);
            left = rest;
        }
        Self(kept)
    }

    fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte)).is_some_and(|is_kept| *is_kept)
    }
}

const fn holds(bytes: &[u8], wanted: u8) -> bool {
    let mut left = bytes;
    while let Some((byte, rest)) = left.split_first() {
        if *byte == wanted {
            return true;
        }
        left = rest;
    }
    false
}

/// Whether a raw path is what [`escape_path`] makes of it once it is decoded: nothing in it is escaped, and nothing needs
/// to be. Says nothing of traversal.
#[must_use]
pub fn stays_as_it_is(raw: &[u8]) -> bool {
    raw.first() == Some(&b'/') && raw.iter().all(|byte| KEPT_IN_PATH.has(*byte))
}

/// Writes what is kept as it is, in as long pieces as there are, and hands every other byte on.
pub(crate) fn escape(escaped: &mut String, input: &[u8], kept: &Kept, other: fn(&mut String, u8)) {
    let mut left = input;
    loop {
        let plain = left.iter().take_while(|byte| kept.has(**byte)).count();
        let (plain, rest) = left.split_at_checked(plain).unwrap_or_default();
        // All of it is ASCII.
        escaped.push_str(std::str::from_utf8(plain).unwrap_or_default());
        let Some((byte, rest)) = rest.split_first() else { return };
        other(escaped, *byte);
        left = rest;
    }
}

/// Writes an upper-case escape.
pub(crate) fn push_escape(escaped: &mut String, byte: u8) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    escaped.extend(['%', digit(byte >> 4), digit(byte & 0x0f)]);
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn refuse_backslash(path: &[u8]) -> Result<(), PathError> {
    if path.contains(&b'\\') { Err(PathError::Backslash) } else { Ok(()) }
}

fn refuse_dot_segments(path: &[u8]) -> Result<(), PathError> {
    if path.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..") {
        Err(PathError::DotSegment)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_and_e14_refuse_traversal() {
        for (raw, error) in [
            ("/a/../b", PathError::DotSegment),
            ("/..", PathError::DotSegment),
            ("/./a", PathError::DotSegment),
            ("/.", PathError::DotSegment),
            ("/a/./b", PathError::DotSegment),
            ("/%2e%2e", PathError::DotSegment),
            ("/%2E%2e/x", PathError::DotSegment),
            ("/%252e%252e", PathError::DotSegment),
            ("/%25252e%25252e", PathError::DotSegment),
            ("/..%2f", PathError::DotSegment),
            ("/a%2f..%2fb", PathError::DotSegment),
            ("/%5c..", PathError::Backslash),
            ("/%5c", PathError::Backslash),
            ("/%255c", PathError::Backslash),
            ("/a\\b", PathError::Backslash),
            ("/%zz", PathError::BadEscape),
            ("/a%", PathError::BadEscape),
            ("/a%2", PathError::BadEscape),
            ("/100%25", PathError::BadEscape),
            ("*", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
        ] {
            assert_eq!(DecodedPath::parse(raw.as_bytes()), Err(error), "{raw}");
        }
    }

    #[test]
    fn what_stays_as_it_is_is_what_decoding_and_escaping_make_of_it() {
        for byte in 0..=u8::MAX {
            let raw = [b"/a", &[byte][..], b"/b"].concat();
            let made = DecodedPath::parse(&raw).ok().map(|path| escape_path(path.as_bytes()).into_bytes());
            assert_eq!(stays_as_it_is(&raw), made.as_deref() == Some(&raw[..]), "{byte:#x}");
        }
        assert!(!stays_as_it_is(b"") && !stays_as_it_is(b"a"));
    }

    #[test]
    fn a6_and_e14_accept_what_only_looks_odd() {
        for (raw, decoded) in [
            ("", "/"),
            ("/", "/"),
            ("/.env", "/.env"),
            ("/.well-known/x", "/.well-known/x"),
            ("/foo..bar", "/foo..bar"),
            ("/a..b", "/a..b"),
            ("/...", "/..."),
            ("//", "//"),
            ("/a/", "/a/"),
            ("/a%2Fb", "/a/b"),
            ("/%C3%A9", "/é"),
            ("/%E2%80%8B", "/\u{200b}"),
            ("/\u{ff0e}\u{ff0e}/x", "/\u{ff0e}\u{ff0e}/x"),
            ("/a%00b", "/a\0b"),
            ("/a;param=1", "/a;param=1"),
            ("/a%2520b", "/a%20b"),
        ] {
            let path = DecodedPath::parse(raw.as_bytes()).unwrap();
            assert_eq!(path.as_str(), Some(decoded), "{raw}");
        }
        let overlong = DecodedPath::parse(b"/%c0%ae").unwrap();
        assert_eq!((overlong.as_bytes(), overlong.as_str()), (&b"/\xc0\xae"[..], None));
    }

    #[test]
    fn encoding_depth_is_bounded() {
        let deep = |levels: usize| format!("/%{}41", "25".repeat(levels));
        assert!(DecodedPath::parse(deep(8).as_bytes()).is_ok());
        assert_eq!(DecodedPath::parse(deep(40).as_bytes()), Err(PathError::EncodedTooOften));
    }

    #[test]
    fn target_splits_at_the_first_question_mark() {
        for (target, path, query) in [
            ("/a", "/a", None),
            ("/a?", "/a", Some("")),
            ("/a?b=../c", "/a", Some("b=../c")),
            ("/a?b?c", "/a", Some("b?c")),
            ("?x", "", Some("x")),
        ] {
            let (got_path, got_query) = split_target(target.as_bytes());
            assert_eq!((got_path, got_query), (path.as_bytes(), query.map(str::as_bytes)), "{target}");
        }
    }

    #[test]
    fn escaping_keeps_path_characters_only() {
        assert_eq!(
            escape_path("/a b/é?#%\0[x]:@$&+,;=~".as_bytes()),
            "/a%20b/%C3%A9%3F%23%25%00%5Bx%5D:@$&+,;=~"
        );
    }
}
