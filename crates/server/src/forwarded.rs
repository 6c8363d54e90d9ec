//! The client that a reverse proxy speaks for, as its headers name it.
//!
//! Only what stands last is believed: the proxy in front added it. What stands before it, the client may have written.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use service::Client;

/// The header of most proxies.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Which header of a trusted proxy names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// The last entry of `X-Forwarded-For`: an address, with or without a port.
    XForwardedFor,
    /// `for=` of the last element of `Forwarded` (RFC 7239): an address, or a name that hides it.
    Forwarded,
}

impl Forwarding {
    /// The client that the header names; `None` where it is not there, or names nobody.
    pub(crate) fn client(self, headers: &HeaderMap) -> Option<Client> {
        let name = match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => header::FORWARDED,
        };
        let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
        // No element of a proxy has a comma in itself.
        let last = value.rsplit(',').next()?.trim();
        match self {
            Self::XForwardedFor => address(last).map(Client::at),
            Self::Forwarded => node(last),
        }
    }
}

/// The client of an element such as `for="[2001:db8::1]:4711";proto=https`.
fn node(element: &str) -> Option<Client> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(value);
    if let Some(address) = address(value) {
        return Some(Client::at(address));
    }
    // `_name` or `_name:port` stands for an address that the proxy does not tell; `unknown` stands for nobody.
    let name = value.split(':').next().filter(|name| name.len() > 1 && name.starts_with('_'))?;
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    Some(Client::Named(hasher.finish()))
}

/// An address with or without a port; of IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    // In brackets without a port; or with a port that is a name, as RFC 7239 allows.
    if let Some((inside, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let (host, _) = text.split_once(':')?;
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(forwarding: Forwarding, values: &[&str]) -> Option<Client> {
        let mut headers = HeaderMap::new();
        for value in values {
            for name in [X_FORWARDED_FOR, header::FORWARDED] {
                headers.append(name, value.parse().unwrap());
            }
        }
        forwarding.client(&headers)
    }

    fn at(text: &str) -> Option<Client> {
        Some(Client::at(text.parse().unwrap()))
    }

    #[test]
    fn the_last_entry_of_x_forwarded_for_counts() {
        let read = |values: &[&str]| client(Forwarding::XForwardedFor, values);
        for (value, expected) in [
            ("10.0.0.1", at("10.0.0.1")),
            ("9.9.9.9, 10.0.0.1", at("10.0.0.1")),
            // Azure's gateways write the port.
            ("9.9.9.9, 10.0.0.1:51234", at("10.0.0.1")),
            ("2001:db8::1", at("2001:db8::1")),
            ("[2001:db8::1]", at("2001:db8::1")),
            ("[2001:db8::1]:443", at("2001:db8::1")),
            ("10.0.0.1, unknown", None),
            ("10.0.0.1,", None),
            ("10.0.0.1]:1", None),
            ("", None),
        ] {
            assert_eq!(read(&[value]), expected, "{value}");
        }
        assert_eq!(read(&["10.0.0.1", "10.0.0.2"]), at("10.0.0.2"), "each proxy may add a header of its own");
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn the_last_element_of_forwarded_counts() {
        let read = |values: &[&str]| client(Forwarding::Forwarded, values);
        // The examples of RFC 7239, sections 4, 6 and 7.
        for (value, expected) in [
            ("for=192.0.2.43", at("192.0.2.43")),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", at("192.0.2.60")),
            ("For=\"[2001:db8:cafe::17]:4711\"", at("2001:db8:cafe::17")),
            ("for=192.0.2.43, for=198.51.100.17", at("198.51.100.17")),
            ("for=192.0.2.43,for=\"[2001:db8:cafe::17]\"", at("2001:db8:cafe::17")),
            ("for=\"192.0.2.43:47011\"", at("192.0.2.43")),
            ("for=\"192.0.2.43:_port\"", at("192.0.2.43")),
            ("proto=https; for=192.0.2.43", at("192.0.2.43")),
            ("for=192.0.2.43, for=unknown", None),
            ("for=192.0.2.43, by=203.0.113.43", None),
            ("for=_", None),
            // A quotation mark that the client left open does not hide what the proxy wrote.
            ("for=\"1.1.1.1, for=192.0.2.43", at("192.0.2.43")),
        ] {
            assert_eq!(read(&[value]), expected, "{value}");
        }
        let hidden = read(&["for=_hidden"]);
        assert!(matches!(hidden, Some(Client::Named(_))), "{hidden:?}");
        assert_eq!(hidden, read(&["for=_SEVKISEK, for=\"_hidden:_port\""]));
        assert_ne!(hidden, read(&["for=_SEVKISEK"]));
    }
}
