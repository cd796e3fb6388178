//! One object of a file, checked by the rules of the Admin API and by the policy engine.

use super::desire::beside;
use super::document;
use super::draft::{Draft, body_of, fault_of, normalize, place};
use super::item::{Fault, Item, Kind, NamedSecret, Place, Reference, texts};
use super::template::Template;
use caracal_admin::{Object, preview};
use caracal_sts::policy::PolicyDocument;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// What stands for the id of something that has none yet, where a body is only looked at.
const SOME_ID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) fn application(file: &Arc<Path>, one: &document::Application) -> Result<Item, Fault> {
    let mut item = Draft::new(Kind::Application, &one.name, file)
        .field("name", &one.name)
        .maybe("traits", one.traits.as_ref())
        .item;
    let body = body_of(&item, json!({ "registration_method": "managed" }));
    normalize(&mut item, Object::Application, &body)?;
    Ok(item)
}

pub(super) fn provider(file: &Arc<Path>, one: document::Provider) -> Result<Item, Fault> {
    let kind_place = one.kind.referenced;
    let draft = Draft::new(Kind::Provider, &one.identifier, file)
        .field("identifier", &one.identifier)
        .maybe("name", one.name.as_ref())
        .field("kind", &one.kind);
    let (config, at) =
        one.config.map_or((Map::new(), kind_place), |config| (config.value, config.referenced));
    let mut item = draft.set("config", Value::Object(config), at).item;
    for (name, source) in one.secrets.unwrap_or_default() {
        let place = place(file, source.referenced);
        item.places.insert(name.clone(), place.clone());
        item.secrets.insert(name, NamedSecret { source: source.value, place });
    }
    let body = body_of(&item, Value::Null);
    let stored = preview(Object::Provider, &body).map_err(|refused| {
        // What is wrong with a configuration stands in the configuration, unless it is its kind.
        if refused.code == "invalid_provider_config" && !refused.why.starts_with("kind") {
            return Fault::at(item.place_of("config"), refused.to_string());
        }
        fault_of(&item, &refused)
    })?;
    if let Some(name) = texts(stored.get("secret_keys")).first() {
        let why = format!("{name} is a secret: name where it is under `secrets`, and do not write it here");
        return Err(Fault::at(item.place_of("config"), why));
    }
    normalize(&mut item, Object::Provider, &body)?;
    item.needs = texts(stored.get("needs")).into_iter().collect();
    check_secret_names(&item)?;
    Ok(item)
}

/// Is each of the named secrets one that the kind has? Tried with a value that stands for any other.
fn check_secret_names(item: &Item) -> Result<(), Fault> {
    for (name, secret) in &item.secrets {
        let mut config = item.fields.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
        config.insert(name.clone(), "x".into());
        let body = json!({ "identifier": item.key, "kind": item.text("kind"), "config_json": config });
        let taken = match preview(Object::Provider, &body) {
            Ok(stored) => texts(stored.get("secret_keys")).contains(name),
            // That "x" is no private key is no matter of names.
            Err(refused) => {
                name == "private_key" && item.needs.contains(name) && !refused.why.contains("unsupported")
            }
        };
        if !taken {
            let why = format!("{name} is no secret of a provider of kind {}", item.text("kind"));
            return Err(Fault::at(&secret.place, why));
        }
    }
    Ok(())
}

pub(super) fn resource(file: &Arc<Path>, one: &document::Resource) -> Result<Item, Fault> {
    let mut draft = Draft::new(Kind::Resource, &one.identifier, file)
        .field("identifier", &one.identifier)
        .maybe("name", one.name.as_ref())
        .field("upstream_url", &one.upstream_url)
        .field("scopes", &one.scopes)
        .maybe("operation_enforcement", one.operation_enforcement.as_ref())
        .maybe("mandate_use", one.mandate_use.as_ref())
        .maybe("mcp", one.mcp.as_ref())
        .refers(Kind::Provider, &one.provider);
    if let Some(operations) = &one.operations {
        draft = draft.list("operations", operations);
    }
    let mut item = draft.item;
    let body = body_of(&item, json!({ "credential_provider_id": SOME_ID }));
    normalize(&mut item, Object::Resource, &body)?;
    item.fields.insert("provider".to_owned(), one.provider.value.trim().into());
    Ok(item)
}

pub(super) fn policy(
    file: &Arc<Path>,
    one: &document::Policy,
    read: &dyn Fn(&Path) -> Result<String, String>,
) -> Result<Item, Fault> {
    let mut item = Draft::new(Kind::Policy, &one.name, file).item;
    check_name(&item)?;
    let (text, at, own_file) = match (&one.content, &one.file) {
        (Some(content), None) => (content.value.clone(), place(file, content.referenced), None),
        (None, Some(path)) => {
            let at = place(file, path.referenced);
            let path = beside(file, &path.value);
            let text = read(&path).map_err(|why| Fault::at(&at, format!("{}: {why}", path.display())))?;
            (text, at, Some(path))
        }
        _ => return Err(Fault::at(&item.place, "a policy has either `content` or `file`")),
    };
    let within = |line: u64, column: u64, why: String| match &own_file {
        Some(path) => Fault::at(&Place { file: path.clone().into(), line, column }, why),
        None => Fault::at(&at, format!("line {line}, column {column} of the content: {why}")),
    };
    let template =
        Template::parse(&text).map_err(|error| within(error.at.line, error.at.column, error.to_string()))?;
    // Names stand in texts, as ids do, so the engine understands the one where it does the other.
    PolicyDocument::parse(&text).map_err(|error| {
        let why = format!("{}: {error}", error.code());
        let at = error.position.map(|at| (u64::from(at.line), u64::from(at.column)));
        let (line, column) = at.unwrap_or((1, 1));
        within(line, column, why)
    })?;
    for (name, found) in template.applications() {
        let place = within(found.line, found.column, String::new()).place.unwrap_or_else(|| at.clone());
        item.references.push(Reference { kind: Kind::Application, key: name.to_owned(), place });
    }
    item.places.insert("content".to_owned(), at);
    item.template = Some(template);
    Ok(item)
}

/// What the Admin API asks of a name that is no more than that.
fn check_name(item: &Item) -> Result<(), Fault> {
    let long = !(1..=200).contains(&item.key.chars().count()) || item.key.chars().any(char::is_control);
    let reserved = item.kind == Kind::Policy && item.key.to_lowercase().starts_with("caracal.sys/");
    if long {
        return Err(Fault::at(&item.place, "a name has 1 to 200 characters and no control characters"));
    }
    if reserved {
        return Err(Fault::at(
            &item.place,
            "reserved_namespace: names that begin with \"caracal.sys/\" are reserved",
        ));
    }
    Ok(())
}

pub(super) fn policy_set(file: &Arc<Path>, one: &document::PolicySet) -> Result<Item, Fault> {
    let mut draft = Draft::new(Kind::PolicySet, &one.name, file)
        .list("policies", &one.policies)
        .maybe("active", one.active.as_ref());
    let mut seen = BTreeSet::new();
    for policy in &one.policies {
        if !seen.insert(policy.value.trim().to_owned()) {
            let at = place(file, policy.referenced);
            return Err(Fault::at(&at, format!("policy {:?} is in the set twice", policy.value)));
        }
        draft = draft.refers(Kind::Policy, policy);
    }
    check_name(&draft.item)?;
    if !(1..=256).contains(&one.policies.len()) {
        return Err(Fault::at(&draft.item.place, "a policy set has 1 to 256 policies"));
    }
    draft.item.fields.insert("policies".to_owned(), seen.into_iter().collect::<Vec<_>>().into());
    Ok(draft.item)
}

pub(super) fn workload(file: &Arc<Path>, one: &document::Workload) -> Result<Item, Fault> {
    let mut draft = Draft::new(Kind::Workload, &one.name, file).field("name", &one.name);
    if let Some(bindings) = &one.bindings {
        draft = draft.list("bindings", bindings);
        for binding in bindings {
            let resource = Spanned::new(binding.value.resource.clone(), binding.referenced, binding.defined);
            draft = draft.refers(Kind::Resource, &resource);
        }
    }
    let mut item = draft.item;
    let body = body_of(&item, Value::Null);
    let named = |fault: Fault| {
        let mut bindings = one.bindings.iter().flatten();
        let blamed = bindings.find(|binding| fault.why.contains(&format!("{:?}", binding.value.env)));
        blamed.map_or(fault.clone(), |binding| Fault::at(&place(file, binding.referenced), fault.why))
    };
    normalize(&mut item, Object::Workload, &body).map_err(named)?;
    Ok(item)
}

/// What names a grant: who let whom do something with what.
pub(super) fn grant_key(user: &str, application: &str, resource: &str) -> String {
    format!("{user} to {application} for {resource}")
}

pub(super) fn grant(file: &Arc<Path>, one: &document::Grant) -> Result<Item, Fault> {
    let key = grant_key(one.user.value.trim(), one.application.value.trim(), one.resource.value.trim());
    let key = Spanned::new(key, one.user.referenced, one.user.defined);
    let mut item = Draft::new(Kind::Grant, &key, file)
        .field("user", &one.user)
        .field("scopes", &one.scopes)
        .refers(Kind::Application, &one.application)
        .refers(Kind::Resource, &one.resource)
        .item;
    let body = body_of(&item, json!({ "application_id": SOME_ID, "resource_id": SOME_ID }));
    normalize(&mut item, Object::Grant, &body)?;
    item.fields.insert("application".to_owned(), one.application.value.trim().into());
    item.fields.insert("resource".to_owned(), one.resource.value.trim().into());
    Ok(item)
}

pub(super) fn subject_issuer(file: &Arc<Path>, one: &document::SubjectIssuer) -> Result<Item, Fault> {
    let mut item = Draft::new(Kind::SubjectIssuer, &one.issuer, file)
        .field("issuer", &one.issuer)
        .field("jwks_url", &one.jwks_url)
        .field("audience", &one.audience)
        .item;
    let body = body_of(&item, Value::Null);
    normalize(&mut item, Object::SubjectIssuer, &body)?;
    Ok(item)
}

pub(super) fn sink(file: &Arc<Path>, one: &document::Sink) -> Result<Item, Fault> {
    let mut item = Draft::new(Kind::NotificationSink, &one.name, file)
        .field("name", &one.name)
        .field("url", &one.url)
        .maybe("event_types", one.event_types.as_ref())
        .item;
    let body = body_of(&item, Value::Null);
    normalize(&mut item, Object::Sink, &body)?;
    if let Some(active) = &one.active {
        item.fields.insert("active".to_owned(), active.value.into());
        item.places.insert("active".to_owned(), place(file, active.referenced));
    }
    Ok(item)
}
