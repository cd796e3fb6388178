//! How long one policy evaluation takes, in the engine itself, with a bundle of realistic size.

use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::world::{RESOURCE, policy_document};
use caracal_sts::policy::input::{Action, Context, DelegationEdge, Principal, Resource};
use caracal_sts::policy::{Bundle, Effect, PolicyInput};
use std::time::Instant;

/// Evaluations before any counts, and those that count.
const WARM_UP: usize = 500;
const MEASURED: usize = 20_000;
/// The most that one may take in the middle, microseconds.
const GOAL_US: f64 = 50.0;

/// Measures evaluations of a delegated request one after the other, on one thread.
pub(crate) fn measure(figures: &mut Figures) -> Result<(), Error> {
    let policy = |error: &dyn std::fmt::Display| Error::Policy(error.to_string());
    let application = uuid::Uuid::now_v7().to_string();
    let bundle =
        Bundle::compile(&[("orders", policy_document(&application))]).map_err(|error| policy(&error))?;
    let input = delegated(&application, "orders:read");
    for (scope, effect) in [("orders:read", Effect::Allow), ("orders:write", Effect::Deny)] {
        let decision = bundle.evaluate(&delegated(&application, scope)).map_err(|error| policy(&error))?;
        if decision.effect != effect {
            return Err(Error::Policy(format!(
                "{scope} came to {:?}, {:?}",
                decision.effect, decision.reason
            )));
        }
    }
    let mut nanos = Vec::with_capacity(MEASURED);
    for index in 0..WARM_UP + MEASURED {
        let begun = Instant::now();
        let decision = bundle.evaluate(&input).map_err(|error| policy(&error))?;
        let taken = u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX);
        if decision.effect != Effect::Allow {
            return Err(Error::Policy("an evaluation came to another decision".into()));
        }
        if index >= WARM_UP {
            nanos.push(taken);
        }
    }
    nanos.sort_unstable();
    let micros = |index: usize| nanos.get(index).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1000.0);
    figures.push(Figure::new("policy_p50", micros(MEASURED / 2), "us").with_goal(Goal::AtMost(GOAL_US)));
    figures.push(Figure::new("policy_p99", micros(MEASURED / 100 * 99), "us"));
    Ok(())
}

/// What the STS asks of policy for a session that may read.
fn delegated(application: &str, scope: &str) -> PolicyInput {
    let id = || uuid::Uuid::now_v7().to_string();
    let (session, edge) = (id(), id());
    PolicyInput {
        principal: Principal {
            kind: "Application".into(),
            id: application.into(),
            zone_id: id(),
            registration_method: "managed".into(),
            agent_session_id: session.clone(),
            lifecycle: "task".into(),
            labels: vec!["reader".into()],
        },
        resource: Resource {
            id: id(),
            identifier: RESOURCE.into(),
            scopes: vec!["orders:read".into(), "orders:write".into()],
            ..Resource::default()
        },
        action: Action { id: "TokenExchange".into(), ..Action::default() },
        delegation_edge: Some(DelegationEdge {
            id: edge.clone(),
            source_session_id: id(),
            target_session_id: session.clone(),
            issuer_application_id: application.into(),
            receiver_application_id: application.into(),
            scopes: vec!["orders:read".into()],
            path: vec![edge.clone()],
            graph_epoch: 7,
            ..DelegationEdge::default()
        }),
        context: Context {
            actor_claims: [("caracal_client_id".to_owned(), application.into())].into_iter().collect(),
            trace_id: id(),
            agent_session_id: session,
            delegation_edge_id: edge,
            requested_scopes: vec![scope.into()],
            ..Context::default()
        },
        ..PolicyInput::default()
    }
}
