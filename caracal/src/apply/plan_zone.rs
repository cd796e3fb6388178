//! The plan of one zone.

use super::item::{ActualZone, DesiredZone, Fault, Item, Kind, Row, SetVersion};
use super::plan::{Act, Difference, How, Step, Wishes, all_of, difference, differences, taken_by};
use caracal_sts::policy::{Bundle, PolicyDocument};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What the plan of a zone rests on.
pub(super) struct ZoneContext<'a> {
    pub(super) zone: &'a DesiredZone,
    pub(super) there: Option<&'a ActualZone>,
    pub(super) wishes: Wishes,
    /// What is there and not named.
    pub(super) leaves: &'a [Step],
}

impl ZoneContext<'_> {
    fn rows(&self, kind: Kind) -> &[Row] {
        self.there.map(|there| there.rows(kind)).unwrap_or_default()
    }

    fn row(&self, kind: Kind, key: &str) -> Option<&Row> {
        self.rows(kind).iter().find(|row| row.key == key)
    }

    fn wanted(&self, kind: Kind, key: &str) -> Option<&Item> {
        self.zone.items.iter().find(|item| item.kind == kind && item.key == key)
    }

    fn is_removed(&self, kind: Kind, key: &str) -> bool {
        self.leaves.iter().any(|step| step.act == Act::Remove && step.kind == kind && step.key == key)
    }

    fn will_be_there(&self, kind: Kind, key: &str) -> bool {
        self.wanted(kind, key).is_some() || (self.row(kind, key).is_some() && !self.is_removed(kind, key))
    }
}

/// The steps for everything that the files name in a zone.
pub(super) fn plan_items(context: &ZoneContext<'_>, faults: &mut Vec<Fault>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for kind in Kind::OF_ZONE {
        for item in context.zone.items.iter().filter(|item| item.kind == kind) {
            check_references(context, item, faults);
            let row = context.row(kind, &item.key);
            let twins = context.rows(kind).iter().filter(|row| row.key == item.key).count();
            if twins > 1 && kind != Kind::Grant {
                let why = format!("{twins} {}s have this name; remove or rename all but one", kind.word());
                faults.push(Fault::at(&item.place, why));
            }
            if let Some(taken) = taken_by(kind, &item.key, context.rows(kind)) {
                let why =
                    format!("an {} is called {:?}, which differs in case alone", kind.word(), taken.key);
                faults.push(Fault::at(&item.place, why));
            }
            let mut step = match kind {
                Kind::Policy => plan_policy(context, item, row),
                Kind::PolicySet => plan_set(context, item, row, &steps, faults),
                Kind::Grant => plan_grant(context, item),
                Kind::Provider => plan_provider(context, item, row, faults),
                _ => plain(item, row),
            };
            step.zone = Some(context.zone.item.key.clone());
            step.id = row.map(|row| row.id.clone());
            step.item = Some(item.clone());
            steps.push(step);
        }
        check_count(context, kind, &steps, faults);
    }
    check_providers_in_use(context, faults);
    steps
}

fn plain(item: &Item, row: Option<&Row>) -> Step {
    let mut step = Step::new(Act::Create, None, item.kind, &item.key);
    match row {
        None => step.differences = all_of(&item.fields),
        Some(row) => with_differences(&mut step, differences(&item.fields, &row.fields)),
    }
    step
}

fn with_differences(step: &mut Step, differences: Vec<Difference>) {
    step.act = if differences.is_empty() { Act::Unchanged } else { Act::Change };
    step.differences = differences;
}

fn check_references(context: &ZoneContext<'_>, item: &Item, faults: &mut Vec<Fault>) {
    for reference in &item.references {
        let (kind, key) = (reference.kind, reference.key.as_str());
        if context.is_removed(kind, key) {
            let why = format!("{} {key:?} is not in the files, and would be removed", kind.word());
            faults.push(Fault::at(&reference.place, why));
        } else if !context.will_be_there(kind, key) {
            let why = format!("there is no {} {key:?} in zone {:?}", kind.word(), context.zone.item.key);
            faults.push(Fault::at(&reference.place, why));
        }
    }
}

fn check_count(context: &ZoneContext<'_>, kind: Kind, steps: &[Step], faults: &mut Vec<Fault>) {
    let made = steps.iter().filter(|step| step.kind == kind && step.act == Act::Create).count();
    let Some(most) = kind.most().filter(|_| made > 0) else { return };
    let count = context.rows(kind).len().saturating_add(made);
    if count > most {
        // What is pruned goes last, so it still counts.
        let why = format!("a zone has at most {most} {}s, and with these it had {count}", kind.word());
        faults.push(Fault::at(&context.zone.item.place, why));
    }
}

/// A resource that stays has to keep its provider.
fn check_providers_in_use(context: &ZoneContext<'_>, faults: &mut Vec<Fault>) {
    for resource in context.rows(Kind::Resource) {
        if context.is_removed(Kind::Resource, &resource.key) {
            continue;
        }
        let fields =
            context.wanted(Kind::Resource, &resource.key).map_or(&resource.fields, |item| &item.fields);
        let provider = fields.get("provider").and_then(Value::as_str).unwrap_or_default();
        if context.is_removed(Kind::Provider, provider)
            && context.wanted(Kind::Resource, &resource.key).is_none()
        {
            let zone = &context.zone.item;
            let why = format!(
                "provider {provider:?} of zone {:?} is not in the files, but resource {:?} needs it",
                zone.key, resource.key
            );
            faults.push(Fault::at(&zone.place, why));
        }
    }
}

fn plan_provider(context: &ZoneContext<'_>, item: &Item, row: Option<&Row>, faults: &mut Vec<Fault>) -> Step {
    let mut step = plain(item, row);
    let given: BTreeSet<String> = item.secrets.keys().cloned().collect();
    let other_kind = step.differences.iter().any(|one| one.field == "kind");
    let sealed = row.map(|row| row.secret_keys.clone()).unwrap_or_default();
    let fresh = row.is_none() || other_kind;
    if !given.is_empty() {
        let names = given != sealed;
        if names && row.is_some() {
            step.differences.push(difference("secrets", json!(sealed), json!(given)));
            step.act = Act::Change;
        }
        step.send_secrets = fresh || names || context.wishes.resend_secrets;
        if step.send_secrets && step.act == Act::Unchanged {
            step.differences.push(difference("secrets", json!(sealed), json!("sent again")));
            step.act = Act::Change;
        }
    }
    let missing = item.needs.iter().find(|need| {
        let there = if step.send_secrets || fresh { &given } else { &sealed };
        !there.contains(*need)
    });
    if let Some(missing) = missing {
        let why = format!("a provider of kind {} needs {missing} under `secrets`", item.text("kind"));
        faults.push(Fault::at(item.place_of("kind"), why));
    }
    if other_kind && row.is_some() {
        step.note = Some("connections of persons to it end".to_owned());
    }
    step
}

fn plan_policy(context: &ZoneContext<'_>, item: &Item, row: Option<&Row>) -> Step {
    let mut step = Step::new(Act::Create, None, item.kind, &item.key);
    let id_of = |name: &str| context.row(Kind::Application, name).map(|row| row.id.clone());
    let rendered = item.template.as_ref().map(|template| template.render(id_of));
    let to = match &rendered {
        Some(Ok(text)) => fingerprint(text),
        Some(Err(application)) => json!(format!("known once application {application} is made")),
        None => Value::Null,
    };
    let before = row.and_then(|row| row.fields.get("content")).and_then(Value::as_str);
    if let (Some(before), Some(Ok(text))) = (before, &rendered)
        && before == text
    {
        step.act = Act::Unchanged;
        return step;
    }
    if row.is_some() {
        step.act = Act::Change;
    }
    step.differences = vec![difference("content", before.map_or(Value::Null, fingerprint), to)];
    step
}

/// What stands for a text in a plan.
fn fingerprint(text: &str) -> Value {
    let sha256 = PolicyDocument::parse(text).map(|document| document.content_sha256().to_owned());
    json!({ "bytes": text.len(), "sha256": sha256.ok() })
}

fn plan_set(
    context: &ZoneContext<'_>,
    item: &Item,
    row: Option<&Row>,
    steps: &[Step],
    faults: &mut Vec<Fault>,
) -> Step {
    check_bundle(context, item, faults);
    let mut step = Step::new(Act::Create, None, item.kind, &item.key);
    let wanted = item.texts("policies");
    let active = item.flag("active");
    step.how = How::Version { activate: active == Some(true) };
    let renewed = |policy: &String| {
        steps.iter().any(|step| step.kind == Kind::Policy && step.key == *policy && step.act == Act::Change)
    };
    let anew: Vec<String> = wanted
        .iter()
        .map(|policy| if renewed(policy) { format!("{policy} (new version)") } else { policy.clone() })
        .collect();
    let Some(row) = row else {
        step.differences = vec![difference("policies", Value::Null, json!(anew))];
        step.differences.extend(active.map(|active| difference("active", Value::Null, json!(active))));
        return step;
    };
    let settled = anew == wanted;
    let now_active = holding(row.active.as_ref(), &wanted).filter(|_| settled);
    let newest = holding(row.newest.as_ref(), &wanted).filter(|_| settled);
    let shown =
        if active == Some(true) { row.active.as_ref().or(row.newest.as_ref()) } else { row.newest.as_ref() };
    let mut found = Vec::new();
    if active == Some(true) && row.active.is_none() {
        found.push(difference("active", json!(false), json!(true)));
    }
    if active == Some(false) && row.active.is_some() && !another_takes_over(context, item) {
        let why = "an active policy set cannot be made idle: activate another one, or take it out and prune";
        faults.push(Fault::at(item.place_of("active"), why));
    }
    let policies = || difference("policies", json!(shown.map(|version| &version.policies)), json!(anew));
    match (active == Some(true), now_active, newest) {
        (true, Some(_), _) | (false, _, Some(_)) => {}
        (true, None, Some(newest)) => {
            step.how = How::Activate { version: newest.id.clone() };
            if row.active.is_some() {
                found.push(policies());
            }
        }
        _ => found.push(policies()),
    }
    with_differences(&mut step, found);
    step
}

/// The version, if it holds the newest versions of exactly these policies.
fn holding<'a>(version: Option<&'a SetVersion>, wanted: &[String]) -> Option<&'a SetVersion> {
    version.filter(|version| {
        let mut policies = version.policies.clone();
        policies.sort_unstable();
        policies == wanted
    })
}

fn another_takes_over(context: &ZoneContext<'_>, item: &Item) -> bool {
    context.zone.items.iter().any(|other| {
        other.kind == Kind::PolicySet && other.key != item.key && other.flag("active") == Some(true)
    })
}

/// Do the policies of a set make a bundle?
fn check_bundle(context: &ZoneContext<'_>, item: &Item, faults: &mut Vec<Fault>) {
    let text_of = |name: &String| {
        let wanted = context.wanted(Kind::Policy, name).and_then(|policy| policy.template.as_ref());
        let there = || context.row(Kind::Policy, name)?.fields.get("content")?.as_str().map(str::to_owned);
        wanted.map(|template| template.source.clone()).or_else(there).map(|text| (name.clone(), text))
    };
    let documents: Vec<(String, String)> = item.texts("policies").iter().filter_map(text_of).collect();
    if let Err(error) = Bundle::compile(&documents) {
        faults.push(Fault::at(&item.place, format!("the policies of the set do not go together: {error}")));
    }
}

fn plan_grant(context: &ZoneContext<'_>, item: &Item) -> Step {
    let mut step = Step::new(Act::Create, None, item.kind, &item.key);
    let rows: Vec<&Row> = context.rows(Kind::Grant).iter().filter(|row| row.key == item.key).collect();
    let good = rows.iter().find(|row| differences(&item.fields, &row.fields).is_empty());
    let end: Vec<String> = rows
        .iter()
        .filter(|row| good.is_none_or(|good| good.id != row.id))
        .map(|row| row.id.clone())
        .collect();
    match rows.first() {
        None => step.differences = all_of(&item.fields),
        Some(_) if end.is_empty() => step.act = Act::Unchanged,
        Some(first) => {
            step.act = Act::Change;
            let from = rows.iter().find(|row| end.contains(&row.id)).unwrap_or(first);
            let scopes =
                |fields: &serde_json::Map<String, Value>| fields.get("scopes").cloned().unwrap_or_default();
            step.differences = vec![difference("scopes", scopes(&from.fields), scopes(&item.fields))];
            step.note =
                Some("the grant is replaced: everything ends that this user has in the zone".to_owned());
        }
    }
    step.how = How::Grant { make: good.is_none(), end };
    step
}
