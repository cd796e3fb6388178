//! The edge cases of contract admin-audit §18, what it asks to do better (§17, §19), and the questions of users, each by
//! its number. `docs/conformance-admin.md` lists them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs, dead_code, unreachable_pub)]

mod access;
mod applications;
mod authority;
mod better;
#[path = "../common/mod.rs"]
mod common;
mod decisions;
mod evidence;
mod faq;
mod policy;
mod resources;
mod sts;

use caracal_store::StoreError;
use caracal_store::audit::AuditEvent;
use common::Bench;

/// Says that something happened, as the service does where it happens.
pub(crate) async fn tell(bench: &Bench, events: Vec<AuditEvent>) {
    let told = bench.store.write(move |tx| {
        Box::pin(async move {
            for event in &events {
                tx.audit(event).await?;
            }
            Ok::<_, StoreError>(())
        })
    });
    told.await.unwrap();
}
