//! Doing what the plan says, one call after the other. What was done stays done; a plan that is made again holds the rest.

use super::actual::SETTINGS;
use super::draft::wire_name;
use super::item::{Actual, Item, Kind, file_name};
use super::plan::{Act, How, Plan, Step};
use crate::admin_client::{AdminClient, CallError};
use crate::data::write_private;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The secrets of providers that are sent, by zone and identifier. They are never shown.
#[derive(Default)]
pub(super) struct SecretTexts(HashMap<(String, String), Map<String, Value>>);

impl SecretTexts {
    pub(super) fn insert(&mut self, zone: &str, provider: &str, secrets: Map<String, Value>) {
        self.0.insert((zone.to_owned(), provider.to_owned()), secrets);
    }

    fn of(&self, zone: &str, provider: &str) -> Map<String, Value> {
        self.0.get(&(zone.to_owned(), provider.to_owned())).cloned().unwrap_or_default()
    }
}

/// Why the plan was not done to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecuteError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the answer has no {0}")]
    Member(&'static str),
    #[error("it was made, but its secret could not be kept ({0}): rotate it")]
    Secret(String),
    #[error("{0} has no id")]
    Unknown(String),
}

/// What was done.
pub(super) struct Outcome {
    /// How many of the plan's writing steps.
    pub(super) done: usize,
    /// Secrets that were generated, and where they were put; nowhere without a folder for them.
    pub(super) secrets: Vec<(String, Option<PathBuf>)>,
    /// Why it ended early.
    pub(super) error: Option<ExecuteError>,
}

/// Ids by zone, kind and key.
type Ids = HashMap<(String, Kind, String), String>;

struct Executor<'a> {
    client: &'a AdminClient,
    zones: HashMap<String, String>,
    ids: Ids,
    secrets: &'a SecretTexts,
    folder: Option<&'a Path>,
    generated: Vec<(String, Option<PathBuf>)>,
}

/// Does the plan.
pub(super) async fn execute(
    client: &AdminClient,
    plan: &Plan,
    actual: &Actual,
    secrets: &SecretTexts,
    folder: Option<&Path>,
) -> Outcome {
    let mut executor = Executor {
        client,
        zones: actual.zones.iter().map(|(slug, zone)| (slug.clone(), zone.id.clone())).collect(),
        ids: ids_of(actual),
        secrets,
        folder,
        generated: Vec::new(),
    };
    let (mut done, mut failed) = (0, None);
    for step in plan.steps.iter().filter(|step| step.writes()) {
        match executor.step(step).await {
            Ok(()) => done += 1,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    Outcome { done, secrets: executor.generated, error: failed }
}

fn ids_of(actual: &Actual) -> Ids {
    let mut ids = Ids::new();
    for (slug, zone) in &actual.zones {
        for (kind, rows) in &zone.rows {
            for row in rows {
                // A policy is used by its newest version.
                let id = if *kind == Kind::Policy { row.version_id.clone() } else { None };
                ids.insert((slug.clone(), *kind, row.key.clone()), id.unwrap_or_else(|| row.id.clone()));
            }
        }
    }
    ids
}

fn member(value: &Value, name: &'static str) -> Result<String, ExecuteError> {
    value.get(name).and_then(Value::as_str).map(str::to_owned).ok_or(ExecuteError::Member(name))
}

impl Executor<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), ExecuteError> {
        if step.act == Act::Remove {
            return self.remove(step).await;
        }
        let Some(item) = &step.item else { return Ok(()) };
        match step.kind {
            Kind::Setting => self.setting(item).await,
            Kind::Zone => self.zone(step, item).await,
            Kind::Policy => self.policy(step, item).await,
            Kind::PolicySet => self.policy_set(step, item).await,
            Kind::Grant => self.grant(step, item).await,
            _ => self.object(step, item).await,
        }
    }

    fn zone_path(&self, step: &Step) -> Result<String, ExecuteError> {
        let slug = step.zone.as_deref().unwrap_or_default();
        let id = self.zones.get(slug).ok_or_else(|| ExecuteError::Unknown(format!("zone {slug}")))?;
        Ok(format!("/v1/zones/{id}/{}", step.kind.collection()))
    }

    fn id_of(&self, step: &Step, kind: Kind, key: &str) -> Result<String, ExecuteError> {
        let zone = step.zone.clone().unwrap_or_default();
        let id = self.ids.get(&(zone, kind, key.to_owned()));
        id.cloned().ok_or_else(|| ExecuteError::Unknown(format!("{} {key}", kind.word())))
    }

    fn learn(&mut self, step: &Step, id: String) {
        self.ids.insert((step.zone.clone().unwrap_or_default(), step.kind, step.key.clone()), id);
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, ExecuteError> {
        Ok(self.client.send(method, path, Some(body)).await?)
    }

    async fn remove(&self, step: &Step) -> Result<(), ExecuteError> {
        let id = step.id.as_deref().unwrap_or_default();
        let path = match step.kind {
            Kind::Zone => format!("/v1/zones/{id}"),
            _ => format!("{}/{id}", self.zone_path(step)?),
        };
        self.client.send(Method::DELETE, &path, None).await?;
        Ok(())
    }

    async fn setting(&self, item: &Item) -> Result<(), ExecuteError> {
        let found = SETTINGS.iter().find(|(name, ..)| *name == item.key);
        let (_, path, value, _) = found.ok_or_else(|| ExecuteError::Unknown(item.key.clone()))?;
        let mut body = Map::new();
        body.insert((*value).to_owned(), item.fields.get("value").cloned().unwrap_or_default());
        self.send(Method::PUT, path, &Value::Object(body)).await.map(|_| ())
    }

    async fn zone(&mut self, step: &Step, item: &Item) -> Result<(), ExecuteError> {
        let id = match &step.id {
            Some(id) => id.clone(),
            None => {
                let mut body = item.fields.clone();
                body.retain(|name, _| matches!(name.as_str(), "name" | "slug" | "dcr_enabled"));
                body.entry("name").or_insert_with(|| item.key.clone().into());
                let made = self.send(Method::POST, "/v1/zones", &Value::Object(body)).await?;
                member(&made, "id")?
            }
        };
        self.zones.insert(item.key.clone(), id.clone());
        let mut rest: Map<String, Value> = changed(step);
        rest.retain(|name, _| step.id.is_some() || name.starts_with("operator_"));
        if !rest.is_empty() {
            self.send(Method::PATCH, &format!("/v1/zones/{id}"), &Value::Object(rest)).await?;
        }
        Ok(())
    }

    async fn policy(&mut self, step: &Step, item: &Item) -> Result<(), ExecuteError> {
        let path = self.zone_path(step)?;
        let id_of = |name: &str| self.id_of(step, Kind::Application, name).ok();
        let content = item.template.as_ref().map(|template| template.render(id_of)).transpose();
        let content = content.map_err(|name| ExecuteError::Unknown(format!("application {name}")))?;
        let made = match &step.id {
            Some(id) => {
                self.send(Method::POST, &format!("{path}/{id}/versions"), &json!({ "content": content }))
                    .await?
            }
            None => self.send(Method::POST, &path, &json!({ "name": item.key, "content": content })).await?,
        };
        self.learn(step, member(&made, "version_id")?);
        Ok(())
    }

    async fn policy_set(&mut self, step: &Step, item: &Item) -> Result<(), ExecuteError> {
        let path = self.zone_path(step)?;
        let id = match &step.id {
            Some(id) => id.clone(),
            None => member(&self.send(Method::POST, &path, &json!({ "name": item.key })).await?, "id")?,
        };
        let version = match &step.how {
            How::Activate { version } => Some(version.clone()),
            How::Version { activate } => {
                let mut manifest = Vec::new();
                for policy in item.texts("policies") {
                    manifest.push(json!({ "policy_version_id": self.id_of(step, Kind::Policy, &policy)? }));
                }
                let body = json!({ "manifest": manifest });
                let made = self.send(Method::POST, &format!("{path}/{id}/versions"), &body).await?;
                let version = member(&made, "version_id")?;
                activate.then_some(version)
            }
            _ => None,
        };
        if let Some(version) = version {
            let body = json!({ "version_id": version });
            self.send(Method::POST, &format!("{path}/{id}/activate"), &body).await?;
        }
        Ok(())
    }

    async fn grant(&mut self, step: &Step, item: &Item) -> Result<(), ExecuteError> {
        let path = self.zone_path(step)?;
        let How::Grant { make, end } = &step.how else { return Ok(()) };
        if *make {
            let body = json!({
                "application_id": self.id_of(step, Kind::Application, item.text("application"))?,
                "resource_id": self.id_of(step, Kind::Resource, item.text("resource"))?,
                "user_id": item.text("user"), "scopes": item.fields.get("scopes"),
            });
            self.send(Method::POST, &path, &body).await?;
        }
        for id in end {
            self.client.send(Method::DELETE, &format!("{path}/{id}"), None).await?;
        }
        Ok(())
    }

    /// What is made and changed with a body.
    async fn object(&mut self, step: &Step, item: &Item) -> Result<(), ExecuteError> {
        let path = self.zone_path(step)?;
        match &step.id {
            Some(id) => {
                let body = self.wire(step, item, changed(step))?;
                let method = if step.kind == Kind::Workload { Method::PUT } else { Method::PATCH };
                self.send(method, &format!("{path}/{id}"), &Value::Object(body)).await?;
            }
            None => {
                let mut body = self.wire(step, item, item.fields.clone())?;
                // What only a change can say is said right after.
                let later = ["bindings", "active"].map(|name| (name, body.remove(name)));
                if step.kind == Kind::Application {
                    body.insert("registration_method".to_owned(), "managed".into());
                }
                let made = self.send(Method::POST, &path, &Value::Object(body)).await?;
                let id = member(&made, "id")?;
                self.learn(step, id.clone());
                self.keep_secret(step, &made)?;
                let method = if step.kind == Kind::Workload { Method::PUT } else { Method::PATCH };
                for (name, value) in later {
                    let Some(value) = value else { continue };
                    let mut body = Map::new();
                    body.insert(name.to_owned(), value);
                    self.send(method.clone(), &format!("{path}/{id}"), &Value::Object(body)).await?;
                }
            }
        }
        Ok(())
    }

    /// The fields as the Admin API calls them, with ids for names and with the secrets that are sent.
    fn wire(
        &self,
        step: &Step,
        item: &Item,
        fields: Map<String, Value>,
    ) -> Result<Map<String, Value>, ExecuteError> {
        let mut body = Map::new();
        for (name, value) in fields {
            let value = match (step.kind, name.as_str()) {
                (Kind::Resource, "provider") => {
                    self.id_of(step, Kind::Provider, value.as_str().unwrap_or_default())?.into()
                }
                _ => value,
            };
            body.insert(wire_name(&name).to_owned(), value);
        }
        if step.kind == Kind::Provider && (step.send_secrets || body.contains_key("kind")) {
            let mut config =
                item.fields.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
            if step.send_secrets {
                config.extend(self.secrets.of(step.zone.as_deref().unwrap_or_default(), &item.key));
            }
            body.insert("config_json".to_owned(), Value::Object(config));
        }
        body.remove("secrets");
        Ok(body)
    }

    fn keep_secret(&mut self, step: &Step, made: &Value) -> Result<(), ExecuteError> {
        let secret = ["client_secret", "secret"].into_iter().find_map(|name| made.get(name)?.as_str());
        let Some(secret) = secret else { return Ok(()) };
        let file = self.folder.map(|folder| secret_file(folder, step));
        if let Some(file) = &file {
            let kept = write_private(file, &format!("{secret}\n"));
            kept.map_err(|error| ExecuteError::Secret(error.to_string()))?;
        }
        self.generated.push((step.name(), file));
        Ok(())
    }
}

/// The fields of a step that differ.
fn changed(step: &Step) -> Map<String, Value> {
    step.differences.iter().map(|one| (one.field.clone(), one.to.clone())).collect()
}

/// Where the generated secret of an object goes.
pub(super) fn secret_file(folder: &Path, step: &Step) -> PathBuf {
    let zone = file_name(step.zone.as_deref().unwrap_or_default());
    folder.join(zone).join(step.kind.collection()).join(file_name(&step.key))
}
