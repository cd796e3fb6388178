//! Notification sinks.

use super::{Refusing as _, Right, act, get, remove, send};
use crate::app::App;
use crate::{object, sinks};
use caracal_store::openapi::schema::{flag, list_of, maybe, named, object, one_of, text_of};
use caracal_store::openapi::{Routes, Verb};

pub(super) fn routes() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/notification-sinks", "/v1/zones/{zone}/notification-sinks/{id}");
    let types = || list_of(one_of(&["step_up_issued", "step_up_decided", "step_up_consumed"]), 1, 16);
    let create =
        object(&[("name", text_of(1, 120)), ("url", text_of(1, 2048)), ("event_types?", maybe(types()))]);
    let patch = object(&[
        ("name?", maybe(text_of(1, 120))),
        ("url?", maybe(text_of(1, 2048))),
        ("event_types?", maybe(types())),
        ("active?", maybe(flag())),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_notification_sinks", all, "Who is told of approvals, newest first")
                .paged(500, "NotificationSink"),
            object::list::<sinks::Sink>,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_notification_sink", all, "Tells someone of approvals from now on"),
                create,
            )
            .answers(201, named("NotificationSinkWithSecret"))
            .or(&[404, 409, 502]),
            sinks::create,
        )
        .add(
            get(Right::Read, "get_notification_sink", one, "A sink")
                .answers(200, named("NotificationSink"))
                .or(&[404]),
            object::get::<sinks::Sink>,
        )
        .add(
            send(Verb::Patch, Right::Write, ("change_notification_sink", one, "Changes a sink"), patch)
                .answers(200, named("NotificationSink"))
                .or(&[404]),
            sinks::patch,
        )
        .add(remove("delete_notification_sink", one, "Tells a sink no longer"), sinks::remove)
        .add(
            act(
                Verb::Post,
                Right::Write,
                "rotate_notification_sink_secret",
                "/v1/zones/{zone}/notification-sinks/{id}/rotate-secret",
                "Gives a sink another secret",
            )
            .answers(200, named("NotificationSinkWithSecret"))
            .or(&[404, 502]),
            sinks::rotate,
        )
        .add(
            get(
                Right::Read,
                "list_notification_deliveries",
                "/v1/zones/{zone}/notification-sinks/{id}/deliveries",
                "What a sink was sent, newest first",
            )
            .paged(500, "NotificationDelivery"),
            sinks::deliveries,
        )
}
