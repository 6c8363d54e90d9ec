//! Whose a job is, as far as fairness goes.

use std::net::{IpAddr, Ipv6Addr};

/// Whose a job is. Jobs of one client wait for each other; those of different clients share the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// Whoever has this key: a number that stands for it.
    Key(u64),
    /// Whoever calls from this address.
    Address(IpAddr),
    /// Whoever a trusted proxy calls by a name that hides the address: a number that stands for it.
    Named(u64),
    /// Nothing is known: a request that came over no connection, as in tests.
    Unknown,
}

impl Client {
    /// The client behind an address. One household has a whole /64 of IPv6 and one IPv4, so that is what counts.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
