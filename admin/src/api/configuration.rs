//! Zones, applications, providers, connections, resources and admin tokens.

use super::{Refusing as _, Right, act, get, remove, send};
use crate::app::App;
use crate::{
    admin_tokens, application_secrets, applications, connections, connections_oauth, object, overview,
    provider_check, provider_discovery, providers, resources, zones,
};
use caracal_store::openapi::schema::{
    exactly, flag, id, list, list_of, matching, maybe, named, number, number_of, object, one_of, open_object,
    text, text_of, time,
};
use caracal_store::openapi::{Routes, Verb};
use serde_json::{Value, json};

pub(super) fn routes() -> Routes<App> {
    zones().merge(applications()).merge(providers()).merge(connections()).merge(resources()).merge(tokens())
}

/// Rows that are in use, or those that no longer are.
fn status() -> (&'static str, Value) {
    ("status?", one_of(&["active", "archived"]))
}

fn zones() -> Routes<App> {
    let slug = || matching("^[a-z0-9-]{1,120}$");
    let create = object(&[("name", text_of(1, 120)), ("slug?", maybe(slug())), ("dcr_enabled?", flag())]);
    let patch = object(&[
        ("name?", maybe(text_of(1, 120))),
        ("slug?", maybe(slug())),
        ("dcr_enabled?", maybe(flag())),
        ("operator_coauthor_badge?", maybe(flag())),
        ("operator_governed?", maybe(flag())),
        ("dcr_shutdown?", maybe(one_of(&["keep_live", "revoke_live"]))),
    ]);
    let registration = object(&[("id", id()), ("dcr_enabled", flag()), ("live_dcr_applications", number())]);
    Routes::default()
        .add(
            get(Right::Read, "list_zones", "/v1/zones", "Zones, newest first").paged(500, "Zone"),
            zones::list,
        )
        .add(
            send(Verb::Post, Right::Write, ("create_zone", "/v1/zones", "Makes a zone"), create)
                .answers(201, named("Zone"))
                .or(&[409]),
            zones::create,
        )
        .add(
            get(Right::Read, "get_zone", "/v1/zones/{zone}", "A zone").answers(200, named("Zone")).or(&[404]),
            zones::get,
        )
        .add(
            send(Verb::Patch, Right::Write, ("change_zone", "/v1/zones/{zone}", "Changes a zone"), patch)
                .answers(200, named("Zone"))
                .or(&[404, 409]),
            zones::patch,
        )
        .add(remove("archive_zone", "/v1/zones/{zone}", "Ends a zone and all in it"), zones::archive)
        .add(
            get(
                Right::Read,
                "dcr_status",
                "/v1/zones/{zone}/dcr-status",
                "May applications register, and how many have",
            )
            .answers(200, registration)
            .or(&[404]),
            zones::dcr_status,
        )
        .add(
            get(Right::Read, "zone_overview", "/v1/zones/{zone}/overview", "A zone at a glance")
                .answers(200, named("ZoneOverview")),
            overview::overview,
        )
}

fn applications() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/applications", "/v1/zones/{zone}/applications/{id}");
    let create = object(&[
        ("name", text_of(1, 200)),
        ("registration_method", exactly("managed")),
        ("traits?", list(text())),
    ]);
    let patch = object(&[
        ("name?", maybe(text_of(1, 200))),
        ("client_secret?", maybe(text_of(32, 1024))),
        ("traits?", maybe(list(text()))),
    ]);
    let register = object(&[("name", text_of(1, 200)), ("expires_in?", number_of(1, 3600))]);
    let secret = object(&[("client_secret", text())]);
    Routes::default()
        .add(
            get(Right::Read, "list_applications", all, "Applications, newest first")
                .query(&[status()])
                .paged(500, "Application"),
            applications::list,
        )
        .add(
            send(Verb::Post, Right::Write, ("create_application", all, "Makes an application"), create)
                .answers(201, named("ApplicationWithSecret"))
                .or(&[404, 409, 502]),
            applications::create,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "register_application",
                    "/v1/zones/{zone}/applications/dcr",
                    "Registers an application for a short time",
                ),
                register,
            )
            .answers(201, named("ApplicationWithSecret"))
            .or(&[404, 409]),
            application_secrets::register,
        )
        .add(
            get(Right::Read, "get_application", one, "An application")
                .answers(200, named("Application"))
                .or(&[404]),
            applications::get,
        )
        .add(
            send(Verb::Patch, Right::Write, ("change_application", one, "Changes an application"), patch)
                .answers(200, named("Application"))
                .or(&[404, 409, 502]),
            applications::patch,
        )
        .add(remove("archive_application", one, "Ends an application"), applications::archive)
        .add(
            act(
                Verb::Post,
                Right::Write,
                "rotate_application_secret",
                "/v1/zones/{zone}/applications/{id}/rotate-secret",
                "Gives an application another secret",
            )
            .answers(200, named("ApplicationWithSecret"))
            .or(&[404, 502]),
            application_secrets::rotate,
        )
        .add(
            get(
                Right::Administer,
                "reveal_application_secret",
                "/v1/zones/{zone}/applications/{id}/client-secret",
                "Shows an application's secret",
            )
            .answers(200, secret)
            .or(&[404, 502]),
            application_secrets::reveal,
        )
}

fn providers() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/providers", "/v1/zones/{zone}/providers/{id}");
    let config = || json!({ "type": "object" });
    let kind = || {
        one_of(&[
            "api_key",
            "bearer_token",
            "caracal_mandate",
            "http_basic",
            "none",
            "oauth2_authorization_code",
            "oauth2_client_credentials",
        ])
    };
    let create = open_object(&[
        ("name?", maybe(text_of(0, 200))),
        ("identifier?", maybe(text_of(0, 512))),
        ("kind", kind()),
        ("config_json?", config()),
        ("check?", flag()),
    ]);
    let patch = open_object(&[
        ("name?", maybe(text_of(1, 200))),
        ("identifier?", maybe(text_of(0, 512))),
        ("kind?", maybe(kind())),
        ("config_json?", maybe(config())),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_providers", all, "Providers, newest first")
                .query(&[status()])
                .paged(500, "Provider"),
            object::list::<providers::ProviderRow>,
        )
        .add(
            send(Verb::Post, Right::Write, ("create_provider", all, "Makes a provider"), create)
                .answers(201, named("Provider"))
                .or(&[404, 409, 422, 502]),
            providers::create,
        )
        .add(
            get(Right::Read, "get_provider", one, "A provider").answers(200, named("Provider")).or(&[404]),
            object::get::<providers::ProviderRow>,
        )
        .add(
            send(Verb::Patch, Right::Write, ("change_provider", one, "Changes a provider"), patch)
                .answers(200, named("Provider"))
                .or(&[404, 409, 502]),
            providers::patch,
        )
        .add(remove("archive_provider", one, "Ends a provider"), providers::archive)
        .add(
            act(
                Verb::Post,
                Right::Write,
                "test_provider",
                "/v1/zones/{zone}/providers/{id}/test",
                "Tries a provider's token endpoint",
            )
            .answers(200, named("ProviderCheck"))
            .or(&[404, 502]),
            provider_check::test,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "discover_provider",
                    "/v1/zones/{zone}/providers/discovery",
                    "Reads what an issuer says of itself",
                ),
                object(&[("issuer", text_of(1, 2048))]),
            )
            .answers(200, named("DiscoveredProvider"))
            .or(&[404, 422]),
            provider_discovery::discover,
        )
}

fn connections() -> Routes<App> {
    let all = "/v1/zones/{zone}/provider-connections";
    let whose = [("provider_id", text_of(1, 128)), ("subject_id?", maybe(text_of(1, 512)))];
    let create = open_object(&[
        ("provider_id", text_of(1, 128)),
        ("subject_id?", maybe(text_of(1, 512))),
        ("access_token", text_of(1, 16384)),
        ("refresh_token?", maybe(text_of(1, 16384))),
        ("expires_at?", maybe(time())),
    ]);
    let begun = object(&[("authorization_url", text()), ("state", text()), ("expires_at", time())]);
    Routes::default()
        .add(
            get(Right::Read, "list_provider_connections", all, "Connections of persons to providers")
                .query(&[
                    ("provider_id?", text_of(0, 128)),
                    ("subject_id?", text_of(0, 512)),
                    ("status?", one_of(&["active", "expired", "revoked"])),
                ])
                .paged(500, "ProviderConnection"),
            connections::list,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("import_provider_connection", all, "Takes tokens that were obtained elsewhere"),
                create,
            )
            .answers(201, named("ImportedProviderConnection"))
            .or(&[404, 409, 502]),
            connections::create,
        )
        .add(
            get(
                Right::Read,
                "get_provider_connection",
                "/v1/zones/{zone}/provider-connections/{id}",
                "A connection",
            )
            .answers(200, named("ProviderConnection"))
            .or(&[404]),
            connections::get,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "revoke_provider_connection",
                    "/v1/zones/{zone}/provider-connections/revoke",
                    "Ends a connection, here and at the provider",
                ),
                object(&whose),
            )
            .answers(200, named("RevokedProviderConnection"))
            .or(&[404, 502]),
            connections::revoke,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                (
                    "begin_provider_connection",
                    "/v1/zones/{zone}/provider-connections/oauth/authorize",
                    "Begins to connect a person through a browser",
                ),
                object(&whose),
            )
            .answers(200, begun)
            .or(&[404, 502]),
            connections_oauth::authorize,
        )
        .add(
            get(
                Right::Open,
                "finish_provider_connection",
                "/v1/zones/{zone}/provider-connections/oauth/callback",
                "Where a browser returns to; the state that it brings is the credential",
            )
            .query(&[("state?", text()), ("code?", text()), ("error?", text())])
            .answers(201, named("ProviderConnection"))
            .answers_as(201, "text/html", text())
            .or(&[400, 403, 404, 409, 429, 500, 502, 503])
            .answers_as(400, "text/html", text())
            .answers_as(404, "text/html", text())
            .answers_as(502, "text/html", text())
            .answers_as(503, "text/html", text()),
            connections_oauth::callback,
        )
}

fn resources() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/resources", "/v1/zones/{zone}/resources/{id}");
    let scope = matching(super::SCOPE);
    let operation = open_object(&[
        ("method?", text()),
        ("path?", text()),
        ("scope?", text()),
        ("match?", one_of(&["exact", "template", "prefix"])),
    ]);
    let body = open_object(&[
        ("name?", maybe(text_of(1, 200))),
        ("identifier?", maybe(text_of(1, 512))),
        ("upstream_url?", maybe(text_of(1, 2048))),
        ("scopes?", maybe(list_of(scope, 1, 64))),
        ("credential_provider_id?", maybe(text())),
        ("operations?", maybe(list_of(operation, 0, 256))),
        ("operation_enforcement?", maybe(one_of(&["enforced", "transport_uniform"]))),
        ("mandate_use?", maybe(one_of(&["single", "multi"]))),
        ("mcp?", maybe(super::mcp())),
        ("check?", flag()),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_resources", all, "Resources, newest first")
                .query(&[status()])
                .paged(500, "Resource"),
            object::list::<resources::Resource>,
        )
        .add(
            send(Verb::Post, Right::Write, ("create_resource", all, "Makes a resource"), body.clone())
                .answers(201, named("Resource"))
                .or(&[404, 409]),
            resources::create,
        )
        .add(
            get(Right::Read, "get_resource", one, "A resource").answers(200, named("Resource")).or(&[404]),
            object::get::<resources::Resource>,
        )
        .add(
            send(Verb::Patch, Right::Write, ("change_resource", one, "Changes a resource"), body)
                .answers(200, named("Resource"))
                .or(&[404, 409]),
            resources::patch,
        )
        .add(remove("archive_resource", one, "Ends a resource"), resources::archive)
}

fn tokens() -> Routes<App> {
    let create = object(&[
        ("name", text_of(1, 120)),
        ("scope", one_of(&["global", "zone"])),
        ("zone_id?", maybe(id())),
        ("capability?", one_of(&["admin", "approve", "read", "write"])),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_admin_tokens", "/v1/admin-tokens", "Admin tokens, newest first")
                .paged(500, "AdminToken"),
            admin_tokens::list,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_admin_token", "/v1/admin-tokens", "Makes an admin token"),
                create,
            )
            .with(super::ELEVATED, "approve takes the right administer, and admin the bootstrap credential")
            .answers(201, named("NewAdminToken"))
            .or(&[404]),
            admin_tokens::create,
        )
        .add(
            remove("revoke_admin_token", "/v1/admin-tokens/{id}", "Ends an admin token").or(&[409]),
            admin_tokens::revoke,
        )
}
