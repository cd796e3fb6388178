//! What a request takes, held below what it takes now and a tenth more. Fuel is counted, so there is no noise in it.

use caracal_filter_bed::cost::Costs;
use caracal_filter_bed::vm::Module;

/// The most fuel of a request with a mandate that was seen.
const WARM: u64 = 46_800;
/// The most fuel of a request with another mandate.
const NEVER_SEEN: u64 = 395_000;
/// The most fuel of a request whose mandate a gateway has exchanged.
const GOVERNED: u64 = 862_000;
/// The most fuel of the delivery of one event.
const DELIVERY: u64 = 8_700;
/// The most calls between host and module for a request.
const CROSSINGS: f64 = 15.4;

#[test]
fn a_request_takes_no_more_than_it_did() {
    let costs = Costs::measure(&Module::built_metered()).unwrap();
    println!("{}", costs.report());
    for (name, fuel, most) in [
        ("warm", costs.warm.fuel(), WARM),
        ("never seen", costs.never_seen.fuel(), NEVER_SEEN),
        ("governed", costs.governed.fuel(), GOVERNED),
        ("delivery", costs.delivery.fuel(), DELIVERY),
    ] {
        assert!(fuel > 0 && fuel <= most, "{name}: {fuel}");
    }
    let crossings = costs.warm.crossings();
    assert!(crossings <= CROSSINGS, "{crossings}");
}
