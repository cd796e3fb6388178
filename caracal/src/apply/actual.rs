//! What the Admin API has, called as in the files. Only the kinds are read that the files speak of, and what they name.

use super::item::{Actual, ActualSetting, ActualZone, Desired, DesiredZone, Kind, Row, SetVersion, texts};
use super::make::grant_key;
use crate::admin_client::{AdminClient, CallError};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The settings of the installation: their name in the files, their path, their value and its bound on the wire.
pub(super) const SETTINGS: [(&str, &str, &str, &str); 2] = [
    ("mint_limit_per_minute", "/v1/mint-rate-limit", "limit_per_minute", "max_per_minute"),
    ("audit_retention_days", "/v1/audit-retention", "retention_days", "max_days"),
];

/// Reads what there is.
pub(super) async fn read(client: &AdminClient, desired: &Desired) -> Result<Actual, CallError> {
    let mut actual = Actual::default();
    for (name, path, value, most) in SETTINGS {
        if desired.settings.iter().any(|setting| setting.key == name) {
            let row = client.get(path).await?;
            let number = |member: &str| row.get(member).and_then(Value::as_i64).unwrap_or_default();
            actual
                .settings
                .insert(name.to_owned(), ActualSetting { value: number(value), most: number(most) });
        }
    }
    for row in client.list("/v1/zones").await? {
        let slug = text(&row, "slug");
        let wanted = desired.zones.iter().find(|zone| zone.item.key == slug);
        let fields =
            members(&row, &["slug", "name", "dcr_enabled", "operator_coauthor_badge", "operator_governed"]);
        let mut zone = ActualZone { id: text(&row, "id"), fields, ..ActualZone::default() };
        if let Some(wanted) = wanted {
            read_zone(client, wanted, &mut zone).await?;
        }
        actual.zones.insert(slug, zone);
    }
    Ok(actual)
}

fn text(row: &Value, member: &str) -> String {
    row.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn members(row: &Value, names: &[&str]) -> Map<String, Value> {
    names.iter().filter_map(|name| Some(((*name).to_owned(), row.get(*name)?.clone()))).collect()
}

fn row_of(value: &Value, key: &str, names: &[&str]) -> Row {
    Row { id: text(value, "id"), key: text(value, key), fields: members(value, names), ..Row::default() }
}

/// What the platform keeps for itself is none of the files' business.
fn is_reserved(kind: Kind, key: &str) -> bool {
    let prefix = match kind {
        Kind::Application | Kind::Policy => "caracal.sys/",
        Kind::Resource => "caracal-sys://",
        Kind::Provider => "provider://caracal-sys-",
        _ => return false,
    };
    key.to_lowercase().starts_with(prefix)
}

struct Reader<'a> {
    client: &'a AdminClient,
    zone: String,
}

impl Reader<'_> {
    async fn list(&self, kind: Kind) -> Result<Vec<Value>, CallError> {
        self.client.list(&format!("/v1/zones/{}/{}", self.zone, kind.collection())).await
    }

    async fn get(&self, kind: Kind, rest: &str) -> Result<Value, CallError> {
        self.client.get(&format!("/v1/zones/{}/{}/{rest}", self.zone, kind.collection())).await
    }
}

async fn read_zone(
    client: &AdminClient,
    wanted: &DesiredZone,
    zone: &mut ActualZone,
) -> Result<(), CallError> {
    let reader = Reader { client, zone: zone.id.clone() };
    let speaks_of = |kinds: &[Kind]| kinds.iter().any(|kind| wanted.managed.contains(kind));
    if wanted.item.flag("dcr_enabled") == Some(false) {
        let status = client.get(&format!("/v1/zones/{}/dcr-status", zone.id)).await?;
        zone.live_registered =
            status.get("live_dcr_applications").and_then(Value::as_u64).unwrap_or_default();
    }
    let mut rows: BTreeMap<Kind, Vec<Row>> = BTreeMap::new();
    if speaks_of(&[Kind::Application, Kind::Policy, Kind::PolicySet, Kind::Grant]) {
        rows.insert(Kind::Application, applications(&reader).await?);
    }
    if speaks_of(&[Kind::Provider, Kind::Resource]) {
        rows.insert(Kind::Provider, providers(&reader).await?);
    }
    if speaks_of(&[Kind::Provider, Kind::Resource, Kind::Workload, Kind::Grant]) {
        let names = names_of(rows.get(&Kind::Provider));
        rows.insert(Kind::Resource, resources(&reader, &names).await?);
    }
    if speaks_of(&[Kind::Policy, Kind::PolicySet]) {
        let (policies, versions) = policies(&reader).await?;
        rows.insert(Kind::Policy, policies);
        if speaks_of(&[Kind::PolicySet]) {
            rows.insert(Kind::PolicySet, policy_sets(&reader, &versions).await?);
        }
    }
    if speaks_of(&[Kind::Workload]) {
        let list = reader.list(Kind::Workload).await?;
        let row = |value: &Value| row_of(value, "name", &["name", "bindings"]);
        rows.insert(Kind::Workload, list.iter().map(row).collect());
    }
    if speaks_of(&[Kind::Grant]) {
        let names = |kind| names_of(rows.get(&kind));
        let found = grants(&reader, &names(Kind::Application), &names(Kind::Resource)).await?;
        rows.insert(Kind::Grant, found);
    }
    if speaks_of(&[Kind::SubjectIssuer]) {
        let list = reader.list(Kind::SubjectIssuer).await?;
        let row = |value: &Value| row_of(value, "issuer", &["issuer", "jwks_url", "audience"]);
        rows.insert(Kind::SubjectIssuer, list.iter().map(row).collect());
    }
    if speaks_of(&[Kind::NotificationSink]) {
        let list = reader.list(Kind::NotificationSink).await?;
        let row = |value: &Value| row_of(value, "name", &["name", "url", "event_types", "active"]);
        rows.insert(Kind::NotificationSink, list.iter().map(row).collect());
    }
    for (kind, rows) in &mut rows {
        rows.retain(|row| !is_reserved(*kind, &row.key));
        // Oldest first, as they were made.
        rows.reverse();
    }
    zone.rows = rows;
    Ok(())
}

fn names_of(rows: Option<&Vec<Row>>) -> HashMap<String, String> {
    rows.into_iter().flatten().map(|row| (row.id.clone(), row.key.clone())).collect()
}

/// Those that operators manage; clients that registered themselves end by themselves.
async fn applications(reader: &Reader<'_>) -> Result<Vec<Row>, CallError> {
    let list = reader.list(Kind::Application).await?;
    let managed = list.iter().filter(|row| text(row, "registration_method") == "managed");
    Ok(managed.map(|row| row_of(row, "name", &["name", "traits"])).collect())
}

async fn providers(reader: &Reader<'_>) -> Result<Vec<Row>, CallError> {
    let list = reader.list(Kind::Provider).await?;
    let row = |value: &Value| {
        let mut row = row_of(value, "identifier", &["identifier", "name", "kind"]);
        row.fields.insert("config".to_owned(), value.get("config_json").cloned().unwrap_or_default());
        row.secret_keys = texts(value.get("secret_config_keys")).into_iter().collect();
        row
    };
    Ok(list.iter().map(row).collect())
}

async fn resources(reader: &Reader<'_>, providers: &HashMap<String, String>) -> Result<Vec<Row>, CallError> {
    const FIELDS: [&str; 8] = [
        "identifier",
        "name",
        "upstream_url",
        "scopes",
        "operations",
        "operation_enforcement",
        "mandate_use",
        "mcp",
    ];
    let list = reader.list(Kind::Resource).await?;
    let row = |value: &Value| {
        let mut row = row_of(value, "identifier", &FIELDS);
        let provider = providers.get(&text(value, "credential_provider_id"));
        row.fields.insert("provider".to_owned(), json!(provider));
        row
    };
    Ok(list.iter().map(row).collect())
}

/// Which policy a version is of, and its number where it is not the newest.
type Versions = HashMap<String, String>;

async fn policies(reader: &Reader<'_>) -> Result<(Vec<Row>, Versions), CallError> {
    let (mut rows, mut names) = (Vec::new(), Versions::new());
    for listed in reader.list(Kind::Policy).await? {
        let policy = reader.get(Kind::Policy, &text(&listed, "id")).await?;
        let mut row = row_of(&policy, "name", &[]);
        let versions = policy.get("versions").and_then(Value::as_array).cloned().unwrap_or_default();
        for (index, version) in versions.iter().enumerate() {
            let id = text(version, "id");
            if index == 0 {
                row.version_id = Some(id.clone());
                row.fields = members(version, &["content"]);
                names.insert(id, row.key.clone());
            } else {
                let number = version.get("version").cloned().unwrap_or_default();
                names.insert(id, format!("{} (version {number})", row.key));
            }
        }
        rows.push(row);
    }
    Ok((rows, names))
}

async fn policy_sets(reader: &Reader<'_>, versions: &Versions) -> Result<Vec<Row>, CallError> {
    let mut rows = Vec::new();
    for set in reader.list(Kind::PolicySet).await? {
        let mut row = row_of(&set, "name", &[]);
        let path = format!("{}/versions", row.id);
        let newest = reader.get(Kind::PolicySet, &format!("{path}?limit=1")).await?;
        let newest = newest.pointer("/items/0").map(|version| text(version, "id"));
        let active = set.get("active_version_id").and_then(Value::as_str).map(str::to_owned);
        let mut read: BTreeMap<String, SetVersion> = BTreeMap::new();
        for id in newest.iter().chain(&active).collect::<BTreeSet<_>>() {
            let version = reader.get(Kind::PolicySet, &format!("{path}/{id}")).await?;
            let entries = version.get("manifest_json").and_then(Value::as_array).cloned().unwrap_or_default();
            let name = |entry: &Value| {
                let id = text(entry, "policy_version_id");
                versions.get(&id).cloned().unwrap_or_else(|| format!("(gone: {id})"))
            };
            let policies = entries.iter().map(name).collect();
            read.insert(id.clone(), SetVersion { id: id.clone(), policies });
        }
        row.newest = newest.and_then(|id| read.get(&id).cloned());
        row.active = active.and_then(|id| read.get(&id).cloned());
        rows.push(row);
    }
    Ok(rows)
}

async fn grants(
    reader: &Reader<'_>,
    applications: &HashMap<String, String>,
    resources: &HashMap<String, String>,
) -> Result<Vec<Row>, CallError> {
    let path = format!("/v1/zones/{}/grants?status=active", reader.zone);
    let list = reader.client.list(&path).await?;
    let name = |names: &HashMap<String, String>, id: String| names.get(&id).cloned().unwrap_or(id);
    let row = |value: &Value| {
        let application = name(applications, text(value, "application_id"));
        let resource = name(resources, text(value, "resource_id"));
        let user = text(value, "user_id");
        let mut row = row_of(value, "", &["scopes"]);
        row.key = grant_key(&user, &application, &resource);
        for (member, value) in [("application", application), ("resource", resource), ("user", user)] {
            row.fields.insert(member.to_owned(), value.into());
        }
        row
    };
    Ok(list.iter().map(row).collect())
}
