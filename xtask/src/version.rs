//! Version numbers, as tools print them.

use std::fmt;

/// A version of three numbers. A pre-release or build suffix is not kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Finds the first version in what a tool printed: `Python 3.12.1`, `v20.20.2`, `cargo-deny 0.20.2`, or
    /// `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`. A missing third number counts as 0.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split(|c: char| c.is_whitespace() || c == '/').find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let word = word.strip_prefix('v').unwrap_or(word);
        let mut parts = word.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = match parts.next() {
            None => 0,
            Some(rest) => {
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                rest.get(..digits)?.parse().ok()?
            }
        };
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_print() {
        let cases = [
            ("Python 3.12.1", Some(Version::new(3, 12, 1))),
            ("Python 3.13.0rc2+", Some(Version::new(3, 13, 0))),
            ("v20.20.2\n", Some(Version::new(20, 20, 2))),
            ("cargo-deny 0.20.2", Some(Version::new(0, 20, 2))),
            ("rustc 1.95.0 (59807616e 2026-04-14)", Some(Version::new(1, 95, 0))),
            (
                "\nenvoy  version: 5ffc1e2d81ab1ac0/1.40.0/Clean/RELEASE/BoringSSL\n",
                Some(Version::new(1, 40, 0)),
            ),
            ("envoy  version: 5ffc/1.36.0-dev/Modified/DEBUG/BoringSSL", Some(Version::new(1, 36, 0))),
            ("3.12", Some(Version::new(3, 12, 0))),
            ("pyenv: python3.12: command not found", None),
            ("", None),
            ("version unknown", None),
            ("1.x.3", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Version::find(text), expected, "{text:?}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::new(1, 9, 0) < Version::new(1, 35, 0));
        assert!(Version::new(3, 12, 0) <= Version::new(3, 12, 0));
    }
}
