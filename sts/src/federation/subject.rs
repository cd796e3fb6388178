//! The name of a federated user, exactly as its issuer writes it (contract sts §21).

/// The longest name, in bytes.
const MAX_BYTES: usize = 512;
/// Names that the system keeps for itself.
const RESERVED: &str = "caracal:";

/// A `sub` that may be stored, compared and shown: byte for byte what the issuer wrote, never normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserSubject(String);

impl UserSubject {
    /// The name, if it is accepted.
    pub(crate) fn new(name: String) -> Option<Self> {
        let bounded = !name.is_empty() && name.len() <= MAX_BYTES && !name.starts_with(RESERVED);
        let tight = name.trim() == name;
        (bounded && tight && !name.chars().any(is_deceptive)).then_some(Self(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that cannot be seen or that make others be seen elsewhere: controls, the replacement character, and those
/// that turn the direction of text.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{fffd}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sts_21_subjects() {
        let longest = "a".repeat(512);
        let good = [
            "u",
            "auth0|u1",
            "user@example.com",
            "Caracal:u",
            "é",
            "e\u{301}",
            "a b",
            "日本",
            longest.as_str(),
        ];
        for name in good {
            let subject = UserSubject::new(name.to_owned());
            assert_eq!(subject.as_ref().map(UserSubject::as_str), Some(name));
        }
        let too_long = "é".repeat(257);
        let bad = [
            "",
            " u",
            "u ",
            "\u{a0}u",
            "u\u{2003}",
            "u\n",
            "u\u{0}v",
            "u\tv",
            "u\u{7f}v",
            "u\u{85}v",
            "caracal:",
            "caracal:shared",
            "u\u{fffd}",
            "u\u{202a}v",
            "u\u{202e}v",
            "u\u{2066}v",
            "u\u{2069}v",
            too_long.as_str(),
        ];
        for name in bad {
            assert_eq!(UserSubject::new(name.to_owned()), None, "{name:?}");
        }
    }
}
