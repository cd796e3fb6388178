//! How often one address, or one caller, may ask: fixed windows of a minute, in memory.
//!
//! These limits keep one caller from taking a process for itself, so each process counts for itself, and a restart
//! begins anew. What limits guessing is counted in the store instead ([`WriteTx::count`](crate::WriteTx::count)): it
//! holds for all processes together.

use super::Refusal;
use crate::metrics::{self, Service};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderName, StatusCode};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// A minute, in the unit of all times.
const WINDOW: i64 = 60_000;
/// How many callers are told apart in one window. Who comes after so many is counted together with the other late ones.
const MAX_KEYS: usize = 65_536;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Too many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// When the next window begins, seconds.
    pub retry_after: u32,
}

impl TooMany {
    /// 429 `rate_limited`.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited").retry_after(self.retry_after)
    }
}

/// A limit per minute and caller.
#[derive(Debug)]
pub struct RateLimit<K> {
    service: Service,
    name: &'static str,
    per_minute: u32,
    window: Mutex<Window<K>>,
}

#[derive(Debug)]
struct Window<K> {
    number: i64,
    counts: HashMap<K, u32>,
    late: u32,
}

impl<K: Hash + Eq> RateLimit<K> {
    /// `per_minute` requests of each caller; 0 is no limit. `name` is its label in the metrics of `service`.
    #[must_use]
    pub fn new(service: Service, name: &'static str, per_minute: u32) -> Self {
        let window = Mutex::new(Window { number: 0, counts: HashMap::new(), late: 0 });
        Self { service, name, per_minute, window }
    }

    /// Counts one request at `now` (unix milliseconds).
    pub fn take(&self, caller: K, now: i64) -> Result<(), TooMany> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.div_euclid(WINDOW);
        if window.number != number {
            *window = Window { number, counts: HashMap::new(), late: 0 };
        }
        let full = window.counts.len() >= MAX_KEYS && !window.counts.contains_key(&caller);
        let count = if full { &mut window.late } else { window.counts.entry(caller).or_insert(0) };
        *count = count.saturating_add(1);
        if *count <= self.per_minute {
            return Ok(());
        }
        drop(window);
        metrics::rate_limited(self.service, self.name);
        Err(TooMany::at(now))
    }
}

impl TooMany {
    /// Too many in the window of `now` (unix milliseconds).
    #[must_use]
    pub fn at(now: i64) -> Self {
        let left = WINDOW - now.rem_euclid(WINDOW);
        Self { retry_after: u32::try_from((left + 999) / 1000).unwrap_or(60) }
    }
}

/// An address as limits tell them apart: IPv6 by its network of 64 bits, of which one customer has at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// IPv4, also where it came mapped into IPv6.
    V4([u8; 4]),
    /// The first half of an IPv6 address.
    V6([u16; 4]),
    /// The request did not come over a connection.
    Unknown,
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(octets) => std::net::Ipv4Addr::from(*octets).fmt(f),
            Self::V6([a, b, c, d]) => write!(f, "{a:x}:{b:x}:{c:x}:{d:x}::/64"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Whom a request comes from. Behind a trusted proxy that is the last address of `X-Forwarded-For`, the one that the
/// proxy itself wrote; what stands before it is whatever the caller likes.
#[must_use]
pub fn peer_of(request: &Request, trust_proxy: bool) -> Peer {
    let forwarded = || {
        let last = request.headers().get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
        last.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
    };
    if let Some(address) = trust_proxy.then(forwarded).flatten() {
        return address.into();
    }
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    connection.map_or(Peer::Unknown, |ConnectInfo(address)| address.ip().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(peer: Option<&str>, forwarded: &[&str]) -> Request {
        let mut builder = Request::builder().uri("/");
        for value in forwarded {
            builder = builder.header("x-forwarded-for", *value);
        }
        let mut request = builder.body(Body::empty()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        request
    }

    #[test]
    fn a_window_ends_with_its_minute() {
        let limit = RateLimit::new(Service::Admin, "test", 2);
        let minute = 1_000 * WINDOW;
        assert_eq!(limit.take("a", minute), Ok(()));
        assert_eq!(limit.take("a", minute + 1), Ok(()));
        assert_eq!(limit.take("a", minute + 2), Err(TooMany { retry_after: 60 }));
        assert_eq!(limit.take("b", minute + 2), Ok(()), "another caller");
        assert_eq!(limit.take("a", minute + WINDOW - 1), Err(TooMany { retry_after: 1 }));
        assert_eq!(limit.take("a", minute + WINDOW), Ok(()));
        // A clock that is set back begins a window as well, and never lets more through than one.
        assert_eq!(limit.take("a", minute), Ok(()));
    }

    #[test]
    fn zero_is_no_limit() {
        let limit = RateLimit::new(Service::Admin, "test", 0);
        assert!((0..1000).all(|_| limit.take("a", 0).is_ok()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limit = RateLimit::new(Service::Admin, "test", 1);
        for caller in 0..MAX_KEYS {
            assert_eq!(limit.take(caller, 0), Ok(()));
        }
        assert_eq!(limit.take(MAX_KEYS, 0), Ok(()), "the first of the late ones");
        assert!(limit.take(MAX_KEYS + 1, 0).is_err());
        assert!(limit.take(0, 0).is_err(), "who was there before is still known");
        assert_eq!(limit.window.lock().unwrap().counts.len(), MAX_KEYS);
    }

    #[test]
    fn contract_admin_1_3_an_address_is_taken_from_a_proxy_only_where_it_is_trusted() {
        let own = Some("192.0.2.1:5");
        let of = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        for (peer, forwarded, trust, expected) in [
            (own, &["198.51.100.7"][..], false, of("192.0.2.1")),
            (own, &["198.51.100.7"], true, of("198.51.100.7")),
            (own, &["203.0.113.9, 198.51.100.7"], true, of("198.51.100.7")),
            (own, &["203.0.113.9", "198.51.100.7"], true, of("198.51.100.7")),
            (own, &["nonsense"], true, of("192.0.2.1")),
            (own, &[], true, of("192.0.2.1")),
            (Some("[::ffff:192.0.2.1]:5"), &[], false, of("192.0.2.1")),
            (Some("[2001:db8:1:2:3:4:5:6]:5"), &[], false, of("2001:db8:1:2::1")),
            (None, &[], false, Peer::Unknown),
        ] {
            assert_eq!(peer_of(&request(peer, forwarded), trust), expected, "{forwarded:?} {trust}");
        }
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }
}
