//! Traits of applications (contract admin-audit §4.2).

use crate::gate::Actor;
use crate::problem::Problem;
use caracal_store::clock;
use std::collections::HashSet;

const MAX_TRAITS: usize = 64;
const MAX_TRAIT_BYTES: usize = 128;
/// What the control plane can be asked about, and how (contract admin-audit §7): `control:<noun>:<verb>`.
const CONTROL_NOUNS: [&str; 16] = [
    "app",
    "approval",
    "audit",
    "authority-record",
    "catalog",
    "delegation",
    "ensure",
    "explain",
    "grant",
    "identity-provider",
    "policy",
    "policy-set",
    "resource",
    "session",
    "state",
    "workload",
];
const CONTROL_VERBS: [&str; 3] = ["delete", "read", "write"];

/// Are these traits that the actor may give?
pub(crate) fn check(actor: &Actor, traits: &[String]) -> Result<(), Problem> {
    if traits.len() > MAX_TRAITS {
        let why = format!("an application has at most {MAX_TRAITS} traits");
        return Err(Problem::forbidden("trait_count_exceeded").because(why));
    }
    let mut seen = HashSet::new();
    for name in traits {
        if !is_shaped(name) {
            return Err(Problem::forbidden("trait_invalid").because(format!("{name:?} is no trait")));
        }
        if !seen.insert(name.as_str()) {
            return Err(Problem::forbidden("trait_duplicate").because(format!("{name} is there twice")));
        }
        let namespace = name.split(':').next().unwrap_or_default();
        if actor.zone.is_some() && matches!(namespace, "control" | "caracal.sys") {
            let why = format!("{name} can be given with a global token only");
            return Err(Problem::forbidden("trait_forbidden").because(why));
        }
    }
    check_control(traits)
}

fn is_shaped(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    name.len() <= MAX_TRAIT_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(allowed)
}

fn is_control_scope(scope: &str) -> bool {
    let parts = scope.strip_prefix("control:").and_then(|rest| rest.split_once(':'));
    parts.is_some_and(|(noun, verb)| CONTROL_NOUNS.contains(&noun) && CONTROL_VERBS.contains(&verb))
}

fn check_control(traits: &[String]) -> Result<(), Problem> {
    let (mut lifetimes, mut ends) = (0, 0);
    for name in traits {
        let Some(control) = name.strip_prefix("control:") else { continue };
        let valid = if let Some(seconds) = control.strip_prefix("max-ttl:") {
            lifetimes += 1;
            lifetimes == 1 && seconds.parse::<u32>().is_ok_and(|seconds| (60..=900).contains(&seconds))
        } else if let Some(end) = control.strip_prefix("expires:") {
            ends += 1;
            ends == 1 && clock::parse_iso(end).is_some()
        } else if let Some(scope) = control.strip_prefix("scope:") {
            is_control_scope(scope)
        } else {
            control == "invoke"
        };
        if !valid {
            let why = format!("{name} is no control trait, or is there twice");
            return Err(Problem::forbidden("trait_invalid").because(why));
        }
    }
    Ok(())
}
