//! Names: slugs, and what is reserved for the platform (contract admin-audit §4.1).

use crate::gate::Actor;
use crate::problem::Problem;
use std::collections::HashSet;

/// A field with a reserved prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Name,
    ProviderIdentifier,
    ResourceIdentifier,
    ZoneSlug,
}

impl Field {
    fn prefix(self) -> &'static str {
        match self {
            Self::Name => "caracal.sys/",
            Self::ProviderIdentifier => "provider://caracal-sys-",
            Self::ResourceIdentifier => "caracal-sys://",
            Self::ZoneSlug => "caracal-sys-",
        }
    }

    pub(crate) fn is_reserved(self, text: &str) -> bool {
        text.trim().to_lowercase().starts_with(self.prefix())
    }
}

/// 409 where the text is reserved and the actor is not the bootstrap credential.
pub(crate) fn refuse_reserved(actor: &Actor, field: Field, text: &str) -> Result<(), Problem> {
    if actor.bootstrap || !field.is_reserved(text) {
        return Ok(());
    }
    let why = format!("names that begin with {:?} are reserved", field.prefix());
    Err(Problem::conflict("reserved_namespace").because(why))
}

/// Does the zone belong to the platform?
pub(crate) fn is_reserved_zone(name: &str, slug: &str) -> bool {
    Field::Name.is_reserved(name) || Field::ZoneSlug.is_reserved(slug)
}

/// Lower case, with a hyphen for every run of other characters than ASCII letters and digits.
pub(crate) fn slug(name: &str, fallback: &str) -> String {
    let mut slug = String::new();
    for character in name.to_lowercase().chars() {
        if character.is_ascii_alphanumeric() {
            slug.push(character);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { fallback.to_owned() } else { slug.to_owned() }
}

/// `base`, or the first of `base-2` to `base-999` that is not taken, or `base` with a new id.
pub(crate) fn free(base: &str, taken: &HashSet<String>) -> String {
    if !taken.contains(base) {
        return base.to_owned();
    }
    let mut numbered = (2..1000).map(|number| format!("{base}-{number}"));
    numbered
        .find(|name| !taken.contains(name))
        .unwrap_or_else(|| format!("{base}-{}", caracal_store::ids::new_id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_5_1_slugs() {
        for (name, expected) in
            [("My Zone!", "my-zone"), ("  --A__b-- ", "a-b"), ("Ünï", "n"), ("日本", "zone"), ("a1", "a1")]
        {
            assert_eq!(slug(name, "zone"), expected, "{name}");
        }
        let taken = HashSet::from(["a".to_owned(), "a-2".to_owned()]);
        assert_eq!(free("a", &taken), "a-3");
        assert_eq!(free("b", &taken), "b");
        let all: HashSet<String> =
            std::iter::once("a".to_owned()).chain((2..1000).map(|n| format!("a-{n}"))).collect();
        assert_eq!(free("a", &all).len(), "a-".len() + 36);
    }

    #[test]
    fn contract_admin_4_1_reserved_prefixes() {
        let cases = [
            (Field::ZoneSlug, " Caracal-SYS-x", true),
            (Field::ZoneSlug, "caracal-system", false),
            (Field::Name, "caracal.sys/operator", true),
            (Field::Name, "caracal.sys", false),
            (Field::ResourceIdentifier, "CARACAL-sys://x", true),
            (Field::ProviderIdentifier, "provider://caracal-sys-a", true),
            (Field::ProviderIdentifier, "provider://caracal", false),
        ];
        for (field, text, reserved) in cases {
            assert_eq!(field.is_reserved(text), reserved, "{text}");
        }
    }
}
