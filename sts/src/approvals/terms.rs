//! What several gates ask for, as one set of terms (contract sts §16.1).

use crate::policy::{ApprovalGate, Approver, Privacy};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Who has to approve, for how long that may take, and how they are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The tiers in byte order, joined by commas.
    pub(crate) tier: String,
    pub(crate) approver: Approver,
    pub(crate) privacy: Privacy,
    pub(crate) ttl_seconds: i64,
}

impl Terms {
    /// Merges gates, of which there is at least one. `None` where one wants an operator and another the subject.
    pub(crate) fn merge(gates: &[ApprovalGate]) -> Option<Self> {
        let mut tiers: Vec<&str> = gates.iter().map(|gate| gate.tier.as_str()).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let mut approver = Approver::Any;
        for gate in gates {
            approver = match (approver, gate.approver) {
                (Approver::Any, specific) | (specific, Approver::Any) => specific,
                (one, other) if one == other => one,
                _ => return None,
            };
        }
        let privacy = gates.iter().map(|gate| gate.privacy).max().unwrap_or_default();
        let (default, most) = match approver {
            Approver::Operator => (4 * HOUR, 7 * DAY),
            Approver::Subject | Approver::Any => (15 * MINUTE, DAY),
        };
        let shortest = gates.iter().filter_map(|gate| gate.ttl_seconds).min();
        let wanted = shortest.map_or(default, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        Some(Self { tier: tiers.join(","), approver, privacy, ttl_seconds: wanted.clamp(MINUTE, most) })
    }
}

/// The stored word.
pub(super) fn approver_word(approver: Approver) -> &'static str {
    match approver {
        Approver::Any => "any",
        Approver::Operator => "operator",
        Approver::Subject => "subject",
    }
}

/// The stored word.
pub(super) fn privacy_word(privacy: Privacy) -> &'static str {
    match privacy {
        Privacy::Identified => "identified",
        Privacy::Pseudonymous => "pseudonymous",
        Privacy::Anonymous => "anonymous",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(tier: &str, approver: Approver, ttl_seconds: Option<u64>, privacy: Privacy) -> ApprovalGate {
        ApprovalGate { tier: tier.to_owned(), approver, ttl_seconds, privacy }
    }

    #[test]
    fn sts_28_17_contract_16_1_gates_merge() {
        use Approver::{Any, Operator, Subject};
        use Privacy::{Anonymous, Identified, Pseudonymous};
        let terms = |tier: &str, approver, ttl_seconds, privacy| {
            Some(Terms { tier: tier.to_owned(), approver, privacy, ttl_seconds })
        };
        let cases = [
            (vec![gate("a", Operator, None, Identified)], terms("a", Operator, 14_400, Identified)),
            (vec![gate("a", Subject, None, Identified)], terms("a", Subject, 900, Identified)),
            (vec![gate("a", Any, None, Identified)], terms("a", Any, 900, Identified)),
            (
                vec![gate("b", Any, Some(600), Identified), gate("a", Operator, Some(300), Pseudonymous)],
                terms("a,b", Operator, 300, Pseudonymous),
            ),
            (
                vec![gate("a", Subject, None, Anonymous), gate("a", Any, Some(90), Pseudonymous)],
                terms("a", Subject, 90, Anonymous),
            ),
            (vec![gate("a", Operator, Some(1), Identified)], terms("a", Operator, 60, Identified)),
            (
                vec![gate("a", Operator, Some(u64::MAX), Identified)],
                terms("a", Operator, 604_800, Identified),
            ),
            (vec![gate("a", Subject, Some(90_000), Identified)], terms("a", Subject, 86_400, Identified)),
            (vec![gate("a", Operator, None, Identified), gate("b", Subject, None, Identified)], None),
            (
                vec![
                    gate("a", Operator, None, Identified),
                    gate("c", Any, None, Identified),
                    gate("b", Subject, None, Identified),
                ],
                None,
            ),
        ];
        for (gates, expected) in cases {
            assert_eq!(Terms::merge(&gates), expected, "{gates:?}");
        }
    }
}
