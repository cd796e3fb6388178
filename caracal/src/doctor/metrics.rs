//! What a service's metrics tell of its readiness (contract admin-audit §16.5).

use super::report::{Check, Section, Status};

/// A metric that says something is wrong once it is above a bound.
struct Rule {
    service: &'static str,
    metric: &'static str,
    above: f64,
    status: Status,
    what: &'static str,
    advice: &'static str,
}

const RULES: [Rule; 9] = [
    Rule {
        service: "api",
        metric: "caracal_api_outbox_pending_total",
        above: 1000.0,
        status: Status::Warn,
        what: "events wait for the ledger",
        advice: "see whether the audit service is ready, and its log",
    },
    Rule {
        service: "sts",
        metric: "caracal_sts_opa_compile_errors_total",
        above: 0.0,
        status: Status::Fail,
        what: "policy bundles did not compile",
        advice: "activate a version of the policy set that compiles; the STS's log names the zone",
    },
    Rule {
        service: "sts",
        metric: "caracal_sts_opa_eval_errors_total",
        above: 0.0,
        status: Status::Warn,
        what: "policy evaluations had no result, and were denied",
        advice: "look for policy_eval_failed in the audit of the zones, and explain one of them",
    },
    Rule {
        service: "sts",
        metric: "caracal_sts_secret_backend_errors_total",
        above: 0.0,
        status: Status::Warn,
        what: "secrets could not be opened",
        advice: "see whether secretStoreKek is the key that they were sealed with",
    },
    Rule {
        service: "audit",
        metric: "caracal_audit_tamper_open_findings",
        above: 0.0,
        status: Status::Fail,
        what: "faults of the ledger's chains are open",
        advice: "GET /v1/audit-integrity says where; keep a copy of the data folder, and find out who wrote there",
    },
    Rule {
        service: "audit",
        metric: "caracal_audit_parse_errors_total",
        above: 0.0,
        status: Status::Warn,
        what: "events could not be read",
        advice: "see whether gateways of another version deliver events",
    },
    Rule {
        service: "audit",
        metric: "caracal_audit_consumer_lag",
        above: 1000.0,
        status: Status::Warn,
        what: "events wait for the ledger",
        advice: "see whether the disk is slow or full, and the audit service's log",
    },
    Rule {
        service: "coordinator",
        metric: "caracal_outbox_total",
        above: 500.0,
        status: Status::Warn,
        what: "events wait in the outbox",
        advice: "see whether the disk is slow or full, and the Coordinator's log",
    },
    Rule {
        service: "coordinator",
        metric: "caracal_store_commit_errors_total",
        above: 0.0,
        status: Status::Warn,
        what: "groups of writes were not committed",
        advice: "see whether the disk is full, or another process holds the database",
    },
];

/// The sum of a metric over its labels; `None` where it is not there.
fn sum(text: &str, metric: &str) -> Option<f64> {
    let mut total = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        if name.split('{').next() == Some(metric) {
            total = Some(total.unwrap_or(0.0) + value.parse::<f64>().ok()?);
        }
    }
    total
}

/// A metric's name without what every name of its service begins with.
fn short(rule: &Rule) -> &'static str {
    let name = rule.metric.strip_prefix("caracal_").unwrap_or(rule.metric);
    name.strip_prefix(rule.service).and_then(|rest| rest.strip_prefix('_')).unwrap_or(name)
}

/// The checks of one service. What it does not measure is not judged.
pub(super) fn judge(service: &str, text: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    for rule in RULES.iter().filter(|rule| rule.service == service) {
        let Some(value) = sum(text, rule.metric) else { continue };
        let name = format!("{service} {}", short(rule));
        let detail = format!("{value} {}", rule.what);
        let section = Section::Readiness;
        checks.push(match rule.status {
            _ if value <= rule.above => Check::ok(section, &name, detail),
            Status::Fail => Check::fail(section, &name, detail, rule.advice),
            _ => Check::warn(section, &name, detail, rule.advice),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_16_5_metrics_are_judged() {
        let cases = [
            ("sts", "caracal_sts_opa_compile_errors_total 0\n", vec![Status::Ok]),
            ("sts", "# HELP x\ncaracal_sts_opa_compile_errors_total 1\n", vec![Status::Fail]),
            ("sts", "caracal_sts_opa_eval_errors_total 2\n", vec![Status::Warn]),
            (
                "audit",
                "caracal_audit_consumer_lag 1000\ncaracal_audit_tamper_open_findings 1\n",
                vec![Status::Fail, Status::Ok],
            ),
            (
                "coordinator",
                "caracal_outbox_total{status=\"pending\"} 300\ncaracal_outbox_total{status=\"x\"} 201\n",
                vec![Status::Warn],
            ),
            ("gateway", "anything 5\n", vec![]),
            ("sts", "", vec![]),
        ];
        for (service, text, expected) in cases {
            let found: Vec<Status> = judge(service, text).iter().map(|check| check.status).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    /// A metric that was renamed would never be judged again.
    #[test]
    fn every_metric_that_is_judged_is_one_that_a_service_has() {
        let page = include_str!("../../../docs/metrics.md");
        for rule in &RULES {
            assert!(page.contains(&format!("| `{}` |", rule.metric)), "{}", rule.metric);
        }
    }
}
