//! The protocol, message by message.

use super::*;
use crate::xds::proto::ErrorDetail;
use prost_types::Any;

fn pieces(content: &[(&str, &str)]) -> Pieces {
    let piece = |version: &str| Arc::new(Piece { version: version.to_owned(), body: Any::default() });
    content.iter().map(|(name, version)| ((*name).to_owned(), piece(version))).collect()
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() }
}

fn answer(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = error.map(|message| ErrorDetail { code: 13, message: message.to_owned() });
    DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), error_detail, ..Default::default() }
}

/// What is said: the names with their versions, and what is gone.
fn said(session: &mut Session, kind: Kind, pieces: &Pieces) -> Option<(Vec<String>, Vec<String>, String)> {
    let response = session.say(kind, pieces)?;
    assert_eq!(response.type_url, kind.type_url());
    let resources = response.resources.iter().map(|piece| format!("{}@{}", piece.name, piece.version));
    Some((resources.collect(), response.removed_resources, response.nonce))
}

/// Takes what is said, and answers to it.
fn taken(session: &mut Session, kind: Kind, pieces: &Pieces) -> Option<(Vec<String>, Vec<String>)> {
    let (resources, removed, nonce) = said(session, kind, pieces)?;
    assert_eq!(session.hear(kind, &answer(&nonce, None)), Said::Accepted);
    Some((resources, removed))
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn nothing_is_said_before_anything_is_wanted() {
    let mut session = Session::default();
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "1")])), None);
    assert!(!session.settled());
}

#[test]
fn only_what_changed_is_said() {
    let mut session = Session::default();
    assert_eq!(session.hear(Kind::Cluster, &subscribe(&[])), Said::Wants);
    let first = taken(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("b", "1")]));
    assert_eq!(first, Some((list(&["a@1", "b@1"]), vec![])));
    assert!(session.settled());
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("b", "1")])), None);
    let next = taken(&mut session, Kind::Cluster, &pieces(&[("b", "2"), ("c", "1")]));
    assert_eq!(next, Some((list(&["b@2", "c@1"]), list(&["a"]))));
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("b", "2"), ("c", "1")])), None);
}

#[test]
fn who_waits_for_the_first_answer_gets_one_even_if_there_is_nothing() {
    let mut session = Session::default();
    session.hear(Kind::Cluster, &subscribe(&[]));
    assert_eq!(taken(&mut session, Kind::Cluster, &Pieces::new()), Some((vec![], vec![])));
    assert_eq!(said(&mut session, Kind::Cluster, &Pieces::new()), None);
}

#[test]
fn a_gateway_that_comes_back_is_told_what_it_missed_and_no_more() {
    let mut session = Session::default();
    let mut request = subscribe(&[]);
    let had = [("a", "1"), ("b", "1"), ("c", "1")];
    request.initial_resource_versions =
        had.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
    session.hear(Kind::Cluster, &request);
    let missed = taken(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("b", "2"), ("d", "1")]));
    assert_eq!(missed, Some((list(&["b@2", "d@1"]), list(&["c"]))));

    let mut session = Session::default();
    let mut request = subscribe(&["n", "m"]);
    request.initial_resource_versions.insert("n".to_owned(), "1".to_owned());
    session.hear(Kind::Endpoints, &request);
    let missed = taken(&mut session, Kind::Endpoints, &pieces(&[("n", "1"), ("m", "1"), ("x", "1")]));
    assert_eq!(missed, Some((list(&["m@1"]), vec![])));
}

#[test]
fn one_answer_is_under_way_at_a_time() {
    let mut session = Session::default();
    session.hear(Kind::Cluster, &subscribe(&[]));
    let (_, _, nonce) = said(&mut session, Kind::Cluster, &pieces(&[("a", "1")])).unwrap();
    assert!(!session.settled());
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "2")])), None);
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "3")])), None);
    // Another nonce, or that of another type, answers nothing.
    assert_eq!(session.hear(Kind::Cluster, &answer("77", None)), Said::Wants);
    assert_eq!(session.hear(Kind::Listener, &answer(&nonce, None)), Said::Wants);
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "3")])), None);
    assert_eq!(session.hear(Kind::Cluster, &answer(&nonce, None)), Said::Accepted);
    let next = taken(&mut session, Kind::Cluster, &pieces(&[("a", "3")]));
    assert_eq!(next, Some((list(&["a@3"]), vec![])));
}

#[test]
fn what_was_rejected_is_not_said_again_and_blocks_nothing() {
    let mut session = Session::default();
    session.hear(Kind::Cluster, &subscribe(&[]));
    let (_, _, nonce) = said(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("bad", "1")])).unwrap();
    let rejected = session.hear(Kind::Cluster, &answer(&nonce, Some("bad: no such file")));
    assert_eq!(rejected, Said::Rejected("bad: no such file".to_owned()));
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("bad", "1")])), None);
    let next = taken(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("bad", "1"), ("c", "1")]));
    assert_eq!(next, Some((list(&["c@1"]), vec![])));
    let mended = taken(&mut session, Kind::Cluster, &pieces(&[("a", "1"), ("bad", "2"), ("c", "1")]));
    assert_eq!(mended, Some((list(&["bad@2"]), vec![])));
}

#[test]
fn names_are_said_when_they_are_wanted_and_again_when_they_are_asked_for_again() {
    let mut session = Session::default();
    let there = pieces(&[("n", "1"), ("m", "1")]);
    session.hear(Kind::Endpoints, &subscribe(&["n"]));
    assert_eq!(taken(&mut session, Kind::Endpoints, &there), Some((list(&["n@1"]), vec![])));
    // A cluster that is made anew wants its addresses again.
    session.hear(Kind::Endpoints, &subscribe(&["n"]));
    assert_eq!(taken(&mut session, Kind::Endpoints, &there), Some((list(&["n@1"]), vec![])));
    session.hear(Kind::Endpoints, &subscribe(&["m"]));
    assert_eq!(taken(&mut session, Kind::Endpoints, &there), Some((list(&["m@1"]), vec![])));
    let unsubscribe =
        DeltaDiscoveryRequest { resource_names_unsubscribe: list(&["n"]), ..Default::default() };
    session.hear(Kind::Endpoints, &unsubscribe);
    assert_eq!(said(&mut session, Kind::Endpoints, &pieces(&[("n", "2"), ("m", "1")])), None);
}

#[test]
fn a_name_without_content_is_said_to_be_gone_once() {
    let mut session = Session::default();
    session.hear(Kind::Endpoints, &subscribe(&["n"]));
    assert_eq!(taken(&mut session, Kind::Endpoints, &Pieces::new()), Some((vec![], list(&["n"]))));
    assert_eq!(said(&mut session, Kind::Endpoints, &Pieces::new()), None);
    let there = pieces(&[("n", "1")]);
    assert_eq!(taken(&mut session, Kind::Endpoints, &there), Some((list(&["n@1"]), vec![])));
    assert_eq!(taken(&mut session, Kind::Endpoints, &Pieces::new()), Some((vec![], list(&["n"]))));
    assert_eq!(taken(&mut session, Kind::Endpoints, &there), Some((list(&["n@1"]), vec![])));
}

#[test]
fn a_star_is_everything_until_it_is_taken_back() {
    let mut session = Session::default();
    session.hear(Kind::Cluster, &subscribe(&["*"]));
    let there = pieces(&[("a", "1")]);
    assert_eq!(taken(&mut session, Kind::Cluster, &there), Some((list(&["a@1"]), vec![])));
    let unsubscribe =
        DeltaDiscoveryRequest { resource_names_unsubscribe: list(&["*"]), ..Default::default() };
    session.hear(Kind::Cluster, &unsubscribe);
    assert_eq!(taken(&mut session, Kind::Cluster, &there), Some((vec![], list(&["a"]))));
    assert_eq!(said(&mut session, Kind::Cluster, &pieces(&[("a", "2"), ("b", "1")])), None);
}
