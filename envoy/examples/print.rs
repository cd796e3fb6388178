//! Prints the bootstrap of a gateway or a sidecar, as a starting point for one's own.
//!
//! `cargo run -p caracal-envoy --example print -- gateway /path/to/caracal_filter.wasm`

use caracal_envoy::{BootstrapOptions, Endpoint, GatewayOptions, Shape, SidecarOptions, render};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(shape), Some(module)) = (arguments.next(), arguments.next()) else {
        return Err("usage: print gateway|sidecar MODULE".into());
    };
    let shape = match shape.as_str() {
        "gateway" => Shape::Gateway(GatewayOptions::default()),
        "sidecar" => Shape::Sidecar(SidecarOptions {
            zone: ZoneId::new("z1")?,
            resource: ResourceIdentifier::new("resource://orders")?,
            upstream: Endpoint::loopback(9000),
            forward_mandate: true,
            dry_run: false,
        }),
        other => return Err(format!("{other} is neither gateway nor sidecar").into()),
    };
    let options = BootstrapOptions::new(GatewayId::new("gateway-1")?, shape, module.into());
    println!("{}", serde_json::to_string_pretty(&render(&options))?);
    Ok(())
}
