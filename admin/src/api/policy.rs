//! Policies, policy sets and which of them decides.

use super::{Refusing as _, Right, get, remove, send};
use crate::app::App;
use crate::{activation, object, policies, policy_sets, policy_templates};
use caracal_store::openapi::schema::{
    any, exactly, flag, id, list, list_of, maybe, named, object, open_object, text, text_of,
};
use caracal_store::openapi::{Routes, Verb};

pub(super) fn routes() -> Routes<App> {
    authoring().merge(policies()).merge(sets()).merge(activation())
}

fn authoring() -> Routes<App> {
    let checked = open_object(&[("valid", exactly(true)), ("schema_version", text()), ("preview", any())]);
    let template = object(&[("id", text()), ("name", text()), ("description", text()), ("content", text())]);
    Routes::default()
        .add(
            send(
                Verb::Post,
                Right::Known,
                ("validate_policy", "/v1/policies/validate", "Checks the text of a policy"),
                open_object(&[("content", text_of(1, 262_144))]),
            )
            .answers(200, checked)
            .or(&[422]),
            policies::validate,
        )
        .add(
            get(Right::Known, "list_policy_templates", "/v1/policy-templates", "Texts to begin with")
                .answers(200, list(template)),
            policy_templates::list,
        )
}

fn policies() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/policies", "/v1/zones/{zone}/policies/{id}");
    let create = open_object(&[
        ("name", text_of(1, 200)),
        ("description?", maybe(text())),
        ("content", text_of(1, 262_144)),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_policies", all, "Policies, newest first").paged(500, "Policy"),
            object::list::<policies::Policy>,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_policy", all, "Makes a policy with its first version"),
                create,
            )
            .answers(201, named("NewPolicy"))
            .or(&[404, 409, 422]),
            policies::create,
        )
        .add(
            get(Right::Read, "get_policy", one, "A policy with its versions, newest first")
                .answers(200, named("PolicyWithVersions"))
                .or(&[404]),
            policies::get,
        )
        .add(
            remove("archive_policy", one, "Ends a policy; sets that hold it keep it"),
            object::archive::<policies::Policy>,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "create_policy_version",
                    "/v1/zones/{zone}/policies/{id}/versions",
                    "Gives a policy another version",
                ),
                open_object(&[("content", text_of(1, 262_144))]),
            )
            .answers(201, named("NewPolicyVersion"))
            .or(&[404, 422]),
            policies::add_version,
        )
}

fn sets() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/policy-sets", "/v1/zones/{zone}/policy-sets/{id}");
    let versions = "/v1/zones/{zone}/policy-sets/{id}/versions";
    let entry = open_object(&[("policy_version_id", text())]);
    Routes::default()
        .add(
            get(Right::Read, "list_policy_sets", all, "Policy sets, newest first").paged(500, "PolicySet"),
            object::list::<policy_sets::PolicySet>,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_policy_set", all, "Makes a policy set"),
                open_object(&[("name", text_of(1, 200)), ("description?", maybe(text()))]),
            )
            .answers(201, named("PolicySet"))
            .or(&[404, 409]),
            policy_sets::create,
        )
        .add(
            get(Right::Read, "get_policy_set", one, "A policy set")
                .answers(200, named("PolicySet"))
                .or(&[404]),
            object::get::<policy_sets::PolicySet>,
        )
        .add(
            remove("archive_policy_set", one, "Ends a policy set; was it active, all is denied"),
            policy_sets::archive,
        )
        .add(
            get(Right::Read, "list_policy_set_versions", versions, "Versions of a set, newest first")
                .paged(500, "PolicySetVersion")
                .or(&[404]),
            policy_sets::list_versions,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_policy_set_version", versions, "Gives a set another version"),
                open_object(&[("manifest", list_of(entry, 1, 256))]),
            )
            .answers(201, named("NewPolicySetVersion"))
            .or(&[404, 422]),
            policy_sets::add_version,
        )
        .add(
            get(
                Right::Read,
                "get_policy_set_version",
                "/v1/zones/{zone}/policy-sets/{id}/versions/{version}",
                "A version of a set, with its manifest",
            )
            .answers(200, named("PolicySetVersionWithManifest"))
            .or(&[404]),
            policy_sets::get_version,
        )
}

fn activation() -> Routes<App> {
    let activated = object(&[
        ("activated", exactly(true)),
        ("version_id", id()),
        ("outbox_id", text()),
        ("status_url", text()),
    ]);
    let simulated = object(&[
        ("dry_run", exactly(true)),
        ("would_activate", flag()),
        ("policy_set_id", id()),
        ("version_id", id()),
        ("schema_version", text()),
        ("input_schema_version", text()),
        ("manifest_sha256", text()),
        ("policies", list(id())),
        ("warnings", list(text())),
        ("explanation", open_object(&[("evaluation", text())])),
        ("result", any()),
    ]);
    Routes::default()
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "activate_policy_set",
                    "/v1/zones/{zone}/policy-sets/{id}/activate",
                    "Lets a version of a set decide in the zone",
                ),
                open_object(&[("version_id", text())]),
            )
            .answers(202, activated)
            .or(&[404, 409, 422]),
            activation::activate,
        )
        .add(
            get(
                Right::Read,
                "activation_status",
                "/v1/zones/{zone}/policy-sets/{id}/activation-status",
                "How far an activation has come",
            )
            .query(&[("version_id?", text_of(0, 128)), ("outbox_id?", text_of(0, 128))])
            .answers(200, named("ActivationStatus"))
            .or(&[404]),
            activation::status,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "simulate_policy_set",
                    "/v1/zones/{zone}/policy-sets/{id}/simulate",
                    "What a version of a set would decide; changes nothing",
                ),
                open_object(&[("version_id", text()), ("input?", any())]),
            )
            .answers(200, simulated)
            .or(&[404, 422]),
            activation::simulate,
        )
}
