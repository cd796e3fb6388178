//! From documents to what they want: one list of objects for each zone, before anybody is asked anything.

use super::document::{self, Document, SecretSource};
use super::draft::{Draft, normalize, place};
use super::item::{Desired, DesiredZone, Fault, Item, Kind, NamedSecret};
use super::make::{
    application, grant, policy, policy_set, provider, resource, sink, subject_issuer, workload,
};
use caracal_admin::Object;
use serde_json::Value;
use serde_saphyr::Spanned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) documents: Vec<Document>,
}

/// What the files want. `read` reads the text of a policy that stands in a file of its own.
pub(super) fn desire(
    sources: Vec<Source>,
    read: impl Fn(&Path) -> Result<String, String>,
) -> Result<Desired, Vec<Fault>> {
    let mut gathered = Gathered { desired: Desired::default(), faults: Vec::new(), read: &read };
    for source in sources {
        let file: Arc<Path> = source.path.into();
        for document in source.documents {
            gathered.document(&file, document);
        }
    }
    gathered.finish()
}

struct Gathered<'a> {
    desired: Desired,
    faults: Vec<Fault>,
    read: &'a dyn Fn(&Path) -> Result<String, String>,
}

impl Gathered<'_> {
    fn document(&mut self, file: &Arc<Path>, document: Document) {
        if let Some(settings) = document.settings {
            let settings = [
                ("mint_limit_per_minute", settings.mint_limit_per_minute),
                ("audit_retention_days", settings.audit_retention_days),
            ];
            for (name, value) in settings {
                self.setting(file, name, value);
            }
        }
        for zone in document.zones.unwrap_or_default() {
            self.zone(file, zone);
        }
    }

    fn setting(&mut self, file: &Arc<Path>, name: &str, value: Option<Spanned<i64>>) {
        let Some(value) = value else { return };
        let mut item = Item::new(Kind::Setting, name, place(file, value.referenced));
        if value.value < 1 {
            self.faults.push(Fault::at(&item.place, format!("{name} is at least 1")));
        }
        if let Some(other) = self.desired.settings.iter().find(|other| other.key == name) {
            self.faults.push(Fault::at(&item.place, format!("{name} is set already, at {}", other.place)));
        }
        item.fields.insert("value".to_owned(), value.value.into());
        self.desired.settings.push(item);
    }

    fn zone(&mut self, file: &Arc<Path>, zone: document::Zone) {
        let index = self.zone_item(file, &zone);
        let mut add = |kind, items: Option<Vec<Result<Item, Fault>>>| self.add(index, kind, items);
        add(Kind::Application, each(zone.applications, |one| application(file, &one)));
        add(Kind::Provider, each(zone.providers, |one| provider(file, one)));
        add(Kind::Resource, each(zone.resources, |one| resource(file, &one)));
        let read = self.read;
        let mut add = |kind, items: Option<Vec<Result<Item, Fault>>>| self.add(index, kind, items);
        add(Kind::Policy, each(zone.policies, |one| policy(file, &one, read)));
        add(Kind::PolicySet, each(zone.policy_sets, |one| policy_set(file, &one)));
        add(Kind::Workload, each(zone.workloads, |one| workload(file, &one)));
        add(Kind::Grant, each(zone.grants, |one| grant(file, &one)));
        add(Kind::SubjectIssuer, each(zone.subject_issuers, |one| subject_issuer(file, &one)));
        add(Kind::NotificationSink, each(zone.notification_sinks, |one| sink(file, &one)));
    }

    /// The zone of that slug, whose fields may stand in any of its places, each once.
    fn zone_item(&mut self, file: &Arc<Path>, zone: &document::Zone) -> usize {
        let draft = Draft::new(Kind::Zone, &zone.slug, file)
            .field("slug", &zone.slug)
            .maybe("name", zone.name.as_ref())
            .maybe("dcr_enabled", zone.dcr_enabled.as_ref())
            .maybe("operator_coauthor_badge", zone.operator_coauthor_badge.as_ref())
            .maybe("operator_governed", zone.operator_governed.as_ref());
        let fresh = draft.item;
        let known = self.desired.zones.iter().position(|known| known.item.key == fresh.key);
        let Some(index) = known else {
            self.desired.zones.push(DesiredZone { item: fresh, managed: BTreeSet::new(), items: Vec::new() });
            return self.desired.zones.len().saturating_sub(1);
        };
        if let Some(zone) = self.desired.zones.get_mut(index) {
            for (name, value) in fresh.fields.into_iter().filter(|(name, _)| name != "slug") {
                let at = fresh.places.get(&name).unwrap_or(&fresh.place);
                if let Some(before) = zone.item.places.get(&name) {
                    self.faults
                        .push(Fault::at(at, format!("{name} of the zone is given already, at {before}")));
                }
                zone.item.places.insert(name.clone(), at.clone());
                zone.item.fields.insert(name, value);
            }
        }
        index
    }

    fn add(&mut self, index: usize, kind: Kind, items: Option<Vec<Result<Item, Fault>>>) {
        let (Some(items), Some(zone)) = (items, self.desired.zones.get_mut(index)) else { return };
        zone.managed.insert(kind);
        for item in items {
            match item {
                Ok(item) => {
                    let twin = zone.items.iter().find(|other| {
                        other.kind == kind
                            && (other.key == item.key || is_one_name(kind, &other.key, &item.key))
                    });
                    if let Some(twin) = twin {
                        let why =
                            format!("{} {:?} is there already, at {}", kind.word(), item.key, twin.place);
                        self.faults.push(Fault::at(&item.place, why));
                    }
                    zone.items.push(item);
                }
                Err(fault) => self.faults.push(fault),
            }
        }
    }

    fn finish(mut self) -> Result<Desired, Vec<Fault>> {
        for zone in &mut self.desired.zones {
            // A slug is a good enough name, but only where the files made the zone.
            let mut body = zone.item.fields.clone();
            body.retain(|name, _| matches!(name.as_str(), "name" | "slug" | "dcr_enabled"));
            body.entry("name").or_insert_with(|| zone.item.key.clone().into());
            if let Err(fault) = normalize(&mut zone.item, Object::Zone, &Value::Object(body)) {
                self.faults.push(fault);
            }
            let mut active = zone.items.iter().filter(|item| item.flag("active") == Some(true));
            let mut active = active.by_ref().filter(|item| item.kind == Kind::PolicySet);
            if let (Some(first), Some(second)) = (active.next(), active.next()) {
                let at = second.places.get("active").unwrap_or(&second.place);
                let why = format!("a zone has one active policy set, and {:?} is it already", first.key);
                self.faults.push(Fault::at(at, why));
            }
            for kind in Kind::OF_ZONE {
                let count = zone.items.iter().filter(|item| item.kind == kind).count();
                if let Some(most) = kind.most().filter(|most| count > *most) {
                    let why = format!("a zone has at most {most} {}s, not {count}", kind.word());
                    self.faults.push(Fault::at(&zone.item.place, why));
                }
            }
        }
        if self.faults.is_empty() { Ok(self.desired) } else { Err(self.faults) }
    }
}

/// Names of applications are one name if they differ in case alone.
pub(super) fn is_one_name(kind: Kind, one: &str, other: &str) -> bool {
    kind == Kind::Application && one.to_lowercase() == other.to_lowercase()
}

fn each<T>(
    list: Option<Vec<T>>,
    make: impl Fn(T) -> Result<Item, Fault>,
) -> Option<Vec<Result<Item, Fault>>> {
    list.map(|list| list.into_iter().map(make).collect())
}

/// A path that is meant from the folder of a file.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Reads a secret from where it is. Neither the text nor an error is ever printed with the value.
pub(super) fn read_secret(secret: &NamedSecret) -> Result<String, Fault> {
    let refuse = |why: String| Fault::at(&secret.place, why);
    let text = match &secret.source {
        SecretSource::Env(name) => std::env::var(name).map_err(|_| refuse(format!("{name} is not set")))?,
        SecretSource::File(path) => {
            let path = beside(&secret.place.file, path);
            std::fs::read_to_string(&path).map_err(|error| refuse(format!("{}: {error}", path.display())))?
        }
    };
    match text.trim() {
        "" => Err(refuse("the secret is empty".to_owned())),
        text => Ok(text.to_owned()),
    }
}
