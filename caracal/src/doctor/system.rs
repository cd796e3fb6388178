//! What is asked of everything that runs.

use super::configuration;
use super::metrics::judge;
use super::preflight::preflight;
use super::report::{Check, Mode, Report, Section};
use crate::admin_client::{AdminClient, AdminOptions, CallError, reachable};
use crate::error::Error;
use crate::probe::{client, probe};
use crate::runtime::Running;
use jiff::Timestamp;
use serde_json::Value;
use std::time::Duration;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Differences of clocks that are told, and that are too much, in seconds.
const SKEW: (i64, i64) = (2, 30);

const START: &str = "start it with `caracal up`; if it was started, its log tells why it ended";
const UNREADY: &str =
    "the service's log tells more; docs/operating.md tells what each thing that is away does";

/// Looks at everything.
pub(super) async fn examine(options: &AdminOptions, zones: &[String], strict: bool) -> Result<Report, Error> {
    let mut checks = Vec::new();
    let remote = options.api_url.is_some();
    let folder = options.data.folder();
    let running = if remote { None } else { Some(Running::load(&folder?)) };
    match &running {
        Some(Ok(running)) => {
            services(running, &mut checks).await?;
            if let Some(socket) = &running.xds {
                checks.extend(configuration::examine(socket, PATIENCE).await);
            }
        }
        Some(Err(error)) => checks.push(Check::fail(Section::Health, "running", error.to_string(), START)),
        None => {}
    }
    let mut report = Report {
        mode: Mode::System,
        strict,
        api_url: None,
        zone_scope: "none",
        zone_ids: Vec::new(),
        checks,
    };
    if !matches!(running, Some(Err(_))) {
        match options.client() {
            Ok(admin) => {
                report.api_url = Some(admin.base().to_owned());
                if remote {
                    clock(admin.base(), &mut report.checks).await?;
                }
                examine_zones(&admin, zones, &mut report).await;
            }
            Err(error) => {
                let advice = "name a token that may read: CARACAL_ADMIN_TOKEN, or --admin-token-file";
                report.checks.push(Check::fail(Section::Health, "admin_auth", error.to_string(), advice));
            }
        }
    }
    if !remote {
        report.checks.extend(preflight(&options.data.folder()?));
    }
    Ok(report)
}

/// The services, and what they tell of themselves.
async fn services(running: &Running, checks: &mut Vec<Check>) -> Result<(), Error> {
    let http = client(PATIENCE).map_err(|error| Error::Envoy(error.to_string()))?;
    let services: Vec<(&str, String)> = running
        .services()
        .into_iter()
        .map(|(name, address)| (name, format!("http://{}", reachable(address))))
        .collect();
    for (name, base) in &services {
        let found = probe(&http, &format!("{base}/health")).await;
        checks.push(match found.ok {
            true => Check::ok(Section::Health, name, found.detail),
            false => Check::fail(Section::Health, name, format!("{base}/health: {}", found.detail), START),
        });
        if *name == "api" {
            clock(base, checks).await?;
        }
    }
    let bearer = caracal_store::config::optional("METRICS_BEARER")?;
    for (name, base) in &services {
        let found = probe(&http, &format!("{base}/ready")).await;
        checks.push(match found.ok {
            true => Check::ok(Section::Readiness, name, &found.detail),
            false => {
                Check::fail(Section::Readiness, name, format!("{base}/ready: {}", found.detail), UNREADY)
            }
        });
        // Envoy's own statistics are another matter; see docs/filter.md.
        if found.answered() && *name != "gateway" {
            checks.extend(read_metrics(&http, name, base, bearer.as_deref()).await);
        }
    }
    Ok(())
}

async fn read_metrics(http: &reqwest::Client, name: &str, base: &str, bearer: Option<&str>) -> Vec<Check> {
    let request = http.get(format!("{base}/metrics"));
    let request = match bearer {
        Some(bearer) => request.bearer_auth(bearer),
        None => request,
    };
    let unread = |why: String| {
        let advice = "set METRICS_BEARER to what the services were started with";
        vec![Check::warn(Section::Readiness, &format!("{name} metrics"), why, advice)]
    };
    match request.send().await {
        Ok(answer) if answer.status().is_success() => judge(name, &answer.text().await.unwrap_or_default()),
        Ok(answer) => unread(format!("cannot be read: {}", answer.status())),
        Err(error) => unread(format!("cannot be read: {error}")),
    }
}

/// The clock there against the one here.
async fn clock(base: &str, checks: &mut Vec<Check>) -> Result<(), Error> {
    let (http, base) = crate::admin_client::service_client("--api-url", base)?;
    let Ok(answer) = http.get(format!("{base}/health")).send().await else {
        if !checks.iter().any(|check| check.check == "api") {
            checks.push(Check::fail(Section::Health, "api", format!("{base}/health: unreachable"), START));
        }
        return Ok(());
    };
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    checks.push(skew(date, Timestamp::now().as_second()));
    Ok(())
}

fn skew(date: Option<&str>, now: i64) -> Check {
    let there = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
    let Some(there) = there else {
        let advice = "see whether a proxy before the Admin API takes the header away";
        return Check::warn(Section::Health, "clock_skew", "the answer has no Date", advice);
    };
    let seconds = (there.as_second() - now).abs();
    let detail = format!("{seconds} s");
    let advice = "let both hosts keep their time by NTP: signatures and mandates are judged by it";
    match seconds {
        _ if seconds >= SKEW.1 => Check::fail(Section::Health, "clock_skew", detail, advice),
        _ if seconds >= SKEW.0 => Check::warn(Section::Health, "clock_skew", detail, advice),
        _ => Check::ok(Section::Health, "clock_skew", detail),
    }
}

async fn examine_zones(admin: &AdminClient, wanted: &[String], report: &mut Report) {
    let checks = &mut report.checks;
    let all = match admin.list("/v1/zones").await {
        Ok(zones) => zones,
        Err(error) => {
            checks.push(Check::fail(Section::Health, "admin_auth", error.to_string(), advice_of(&error)));
            return;
        }
    };
    checks.push(Check::ok(Section::Health, "admin_auth", format!("{} zones can be listed", all.len())));
    let text =
        |zone: &Value, name: &str| zone.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let named =
        |zone: &Value| wanted.iter().any(|name| *name == text(zone, "slug") || *name == text(zone, "id"));
    report.zone_scope = if wanted.is_empty() { "all" } else { "selected" };
    for name in wanted {
        if !all.iter().any(|zone| *name == text(zone, "slug") || *name == text(zone, "id")) {
            let advice = "`GET /v1/zones` lists the slugs and ids that there are";
            report.checks.push(Check::fail(Section::Zones, name, "there is no such zone", advice));
        }
    }
    for zone in all.iter().filter(|zone| wanted.is_empty() || named(zone)) {
        let id = text(zone, "id");
        report.checks.extend(examine_zone(admin, &id, &text(zone, "slug")).await);
        report.zone_ids.push(id);
    }
}

fn advice_of(error: &CallError) -> &'static str {
    match error {
        CallError::Refused { status: 401, .. } => {
            "the token is not one of this installation, or was revoked: see CARACAL_ADMIN_TOKEN and --admin-token-file"
        }
        CallError::Refused { status: 403, .. } => {
            "use a token with scope `global`: one of a zone cannot list zones"
        }
        CallError::Refused { .. } => UNREADY,
        CallError::Unanswered { .. } | CallError::Nonsense { .. } => {
            "see whether --api-url is the Admin API's, and what stands between"
        }
    }
}

async fn examine_zone(admin: &AdminClient, id: &str, slug: &str) -> Vec<Check> {
    let overview = match admin.get(&format!("/v1/zones/{id}/overview")).await {
        Ok(overview) => overview,
        Err(error) => return vec![Check::fail(Section::Zones, slug, error.to_string(), advice_of(&error))],
    };
    let mut checks = judge_zone(slug, &overview);
    let audit = admin.get(&format!("/v1/zones/{id}/audit?limit=1")).await;
    let name = format!("{slug} audit");
    checks.push(match audit {
        Ok(_) => Check::ok(Section::Zones, &name, "can be asked"),
        Err(error) => Check::fail(Section::Zones, &name, error.to_string(), advice_of(&error)),
    });
    checks
}

/// What a zone's overview tells.
fn judge_zone(slug: &str, overview: &Value) -> Vec<Check> {
    let number = |pointer: &str| overview.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let (resources, unenforced) = (number("/resources/total"), number("/resources/unenforced"));
    let name = |what: &str| format!("{slug} {what}");
    let resources = match (resources, unenforced) {
        (0, _) => Check::warn(
            Section::Zones,
            &name("resources"),
            "none",
            "nothing can be reached: make a resource, as with `caracal apply`",
        ),
        (all, 0) => Check::ok(Section::Zones, &name("resources"), format!("{all}, all enforced")),
        (all, open) => Check::warn(
            Section::Zones,
            &name("resources"),
            format!("{open} of {all} do not enforce their operations"),
            "list their operations and set operation_enforcement to `enforced`",
        ),
    };
    let active = overview.pointer("/policy_sets/active_name").and_then(Value::as_str);
    let policy = match active {
        Some(active) => Check::ok(Section::Zones, &name("policy_set"), format!("{active} decides")),
        None => Check::warn(
            Section::Zones,
            &name("policy_set"),
            "none is active, so everything is denied",
            "activate a policy set, as with `active: true` in `caracal apply`",
        ),
    };
    vec![resources, policy]
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;
    use serde_json::json;

    #[test]
    fn contract_admin_16_5_clocks_may_differ_by_little() {
        let date = Some("Thu, 26 Nov 2026 15:00:00 GMT");
        let there = 1_795_705_200;
        for (date, now, expected) in [
            (date, there, Status::Ok),
            (date, there - 1, Status::Ok),
            (date, there + 2, Status::Warn),
            (date, there - 30, Status::Fail),
            (Some("soon"), there, Status::Warn),
            (None, there, Status::Warn),
        ] {
            assert_eq!(skew(date, now).status, expected, "{date:?} at {now}");
        }
    }

    #[test]
    fn contract_admin_16_5_zones_are_judged() {
        for (resources, unenforced, active, expected) in [
            (0, 0, None, [Status::Warn, Status::Warn]),
            (2, 1, Some("main"), [Status::Warn, Status::Ok]),
            (2, 0, Some("main"), [Status::Ok, Status::Ok]),
        ] {
            let overview = json!({
                "resources": { "total": resources, "unenforced": unenforced },
                "policy_sets": { "active_name": active },
            });
            let found: Vec<Status> = judge_zone("a", &overview).iter().map(|check| check.status).collect();
            assert_eq!(found, expected);
        }
    }
}
