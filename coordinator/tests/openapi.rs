//! Holds `docs/openapi/coordinator.json` to the routes. `cargo xtask openapi` writes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]

#[test]
fn the_document_in_the_repository_is_that_of_the_routes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi/coordinator.json");
    caracal_store::openapi::hold(file.as_ref(), &caracal_coordinator::document()).unwrap();
}
