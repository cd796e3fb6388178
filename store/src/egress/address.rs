//! Which addresses a request may leave for (contract sts §22.3).

use caracal_mandate::upstream::{embedded_v4, restricted};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The public internet.
    Public,
    /// A private network: RFC 1918, RFC 6598 (100.64.0.0/10) or RFC 4193 (`fc00::/7`).
    Private,
    /// This machine.
    Loopback,
    /// Where no request may ever go: unspecified, link-local, multicast, broadcast, reserved, the metadata services of
    /// clouds, and forms of IPv6 that hide an IPv4 address that is not public.
    Never,
}

impl Reach {
    /// Where `address` leads.
    pub(super) fn of(address: IpAddr) -> Self {
        if restricted(address) {
            return Self::Never;
        }
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        // "This network", protocol assignments, documentation, 6to4 relays, benchmarks, and everything from class D up.
        [0 | 224..=255, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Never,
        _ => Reach::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> Reach {
    if let Some(embedded) = embedded_v4(address) {
        // Nobody who means a private network writes it like this.
        return if of_v4(embedded) == Reach::Public { Reach::Public } else { Reach::Never };
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // Teredo and its neighbours, documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sts_22_3_addresses_are_told_apart() {
        let table = [
            (
                Reach::Public,
                "1.1.1.1 8.8.8.8 11.0.0.1 172.15.0.1 172.32.0.1 100.63.255.255 100.128.0.1 223.255.255.255",
            ),
            (Reach::Public, "2606:4700::1111 2a00:1450::1 64:ff9b::101:101 ::ffff:1.1.1.1 2002:101:101::1"),
            (
                Reach::Private,
                "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255",
            ),
            (Reach::Private, "fc00::1 fd12:3456::1 fdff::1"),
            (Reach::Loopback, "127.0.0.1 127.255.255.255 ::1"),
            (
                Reach::Never,
                "0.0.0.0 0.1.2.3 169.254.0.1 169.254.169.254 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255",
            ),
            (
                Reach::Never,
                "100.100.100.200 168.63.129.16 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1",
            ),
            (
                Reach::Never,
                ":: fe80::1 febf::1 fec0::1 ff02::1 fd00:ec2::254 2001:db8::1 2001::1 3fff::1 100::1",
            ),
            (Reach::Never, "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 ::10.0.0.1"),
            (Reach::Never, "64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::a9fe:a9fe 64:ff9b::6440:1 64:ff9b:1::1"),
            (Reach::Never, "2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1 2002:c0a8:101::1"),
        ];
        for (expected, addresses) in table {
            for address in addresses.split(' ') {
                let parsed: IpAddr = address.parse().unwrap();
                assert_eq!(Reach::of(parsed), expected, "{address}");
            }
        }
    }

    /// What the standard library calls private, loopback and so on is never public here.
    #[test]
    fn sts_22_3_nothing_special_is_public() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let address = Ipv4Addr::from((state >> 32) as u32);
            let special = address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_documentation()
                || address.is_unspecified();
            let wide = [
                address.to_ipv6_mapped(),
                Ipv6Addr::from(0x0064_ff9b_u128 << 96 | u128::from(u32::from(address))),
                Ipv6Addr::from(0x2002_u128 << 112 | u128::from(u32::from(address)) << 80 | 1),
            ];
            if special {
                assert_ne!(Reach::of(address.into()), Reach::Public, "{address}");
            }
            for wide in wide {
                let expected =
                    if Reach::of(address.into()) == Reach::Public { Reach::Public } else { Reach::Never };
                assert_eq!(Reach::of(wide.into()), expected, "{wide}");
            }
        }
    }
}
