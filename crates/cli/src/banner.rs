//! What `serve` tells a person at a terminal: first that it loads, then how to use what it has loaded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use clap::builder::styling::Style;
use tokio::sync::mpsc::UnboundedReceiver;
use vae::VaeInfo;

use crate::serve::Loaded;

/// The line of Python that must come before a [`snippet`].
pub(crate) const IMPORT: &str = "from diffusers.utils.remote_utils import remote_decode";

/// What a banner says, but for the models.
pub(crate) struct Banner {
    address: SocketAddr,
    /// Where probes and figures are, if they have a port of their own.
    admin: Option<SocketAddr>,
    /// `http` or `https`.
    scheme: &'static str,
    /// The name that the certificate is for: clients accept no other.
    name: Option<String>,
    /// Who has none is not let in.
    wants_key: bool,
}

impl Banner {
    pub(crate) fn new(address: SocketAddr, encrypted: bool, wants_key: bool) -> Self {
        Self { address, admin: None, scheme: if encrypted { "https" } else { "http" }, name: None, wants_key }
    }

    pub(crate) fn name(self, name: Option<String>) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn admin(self, admin: Option<SocketAddr>) -> Self {
        Self { admin, ..self }
    }

    /// Says at once what is going to take a while.
    pub(crate) fn loading(names: &[String]) {
        say!("remote-vae {}: loading {} ...", env!("CARGO_PKG_VERSION"), names.join(", "));
    }

    /// Says how to use the server, once it can be used. `loaded` has all its models, or with `--lazy` none.
    pub(crate) fn ready(&self, mut loaded: UnboundedReceiver<Loaded>, names: &[String]) {
        let mut models: Vec<_> = std::iter::from_fn(|| loaded.try_recv().ok()).collect();
        // They come as they get ready; the first one named is the default.
        models.sort_by_key(|model| names.iter().position(|name| *name == model.name));
        let bold = Style::new().bold();
        let own = here(self.address);
        say!("{bold}remote-vae {}{bold:#} on {bold}{}{bold:#}", env!("CARGO_PKG_VERSION"), self.url(own, ""));
        let others = others(self.address);
        if let Some(others) = others.filter(|others| *others != own && self.name.is_none()) {
            say!("  from other machines: {bold}{}{bold:#}", self.url(others, ""));
        }
        if let Some(admin) = self.admin {
            say!("  probes and figures: http://{}/health, /ready, /metrics", here(admin));
        }
        if models.is_empty() {
            say!("  models are loaded when they are first used: {}", names.join(", "));
        }
        for (index, Loaded { name, info }) in models.iter().enumerate() {
            let default = if index == 0 { " and /" } else { "" };
            say!(
                "  at /{name}{default}: {} with {} latent channels, on {}",
                info.class_name,
                info.latent_channels,
                info.engine
            );
        }
        if let Some(Loaded { info, .. }) = models.first() {
            let user = if self.wants_key { "user:KEY@" } else { "" };
            let url = self.url(others.unwrap_or(own), user);
            let call = snippet(&url, "latents", info);
            say!("\nFrom Python, with diffusers:\n\n    {IMPORT}\n    image = {call}\n");
            if self.wants_key {
                say!("In the place of KEY goes one of this server's keys; any name will do for the user.\n");
            }
        }
        say!("Stop with Ctrl-C.");
    }

    fn url(&self, address: SocketAddr, user: &str) -> String {
        match &self.name {
            Some(name) => format!("{}://{user}{name}:{}/", self.scheme, address.port()),
            None => format!("{}://{user}{address}/", self.scheme),
        }
    }
}

/// Python that decodes `latents`, an expression, with the model at `url`.
pub(crate) fn snippet(url: &str, latents: &str, info: &VaeInfo) -> String {
    let factors = match info.latents.normalization.factors() {
        Some((scaling_factor, Some(shift_factor))) => {
            format!("scaling_factor={scaling_factor}, shift_factor={shift_factor}")
        }
        Some((scaling_factor, None)) => format!("scaling_factor={scaling_factor}"),
        // The model's own numbers, which are no factors.
        None => "do_scaling=True".to_owned(),
    };
    format!("remote_decode(\"{url}\", {latents}, {factors})")
}

/// The URL for people on this machine.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://{}/", here(address))
}

/// The address by which this machine reaches what listens on `address`.
fn here(mut address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The address by which other machines reach it; `None` where they cannot, or where this machine has no network.
fn others(mut address: SocketAddr) -> Option<SocketAddr> {
    if address.ip().is_loopback() {
        return None;
    }
    if address.ip().is_unspecified() {
        address.set_ip(outward(address.is_ipv6())?);
    }
    Some(address)
}

/// The address of the interface by which this machine would call others. Nothing is sent.
fn outward(v6: bool) -> Option<IpAddr> {
    // Addresses for documentation, which no machine has.
    let (from, to) = match v6 {
        true => ((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0), "[2001:db8::1]:9"),
        false => ((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), "192.0.2.1:9"),
    };
    let ask = || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    let address = ask().ok().filter(|address| !address.is_loopback() && !address.is_unspecified());
    // Who listens on all addresses of IPv6 listens on those of IPv4 too.
    address.or_else(|| if v6 { outward(false) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_people_here() {
        for (address, expected) in [
            ("127.0.0.1:80", "http://127.0.0.1:80/"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080/"),
            ("[::]:8080", "http://[::1]:8080/"),
            ("10.1.2.3:1", "http://10.1.2.3:1/"),
        ] {
            assert_eq!(url(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn addresses_for_people_elsewhere() {
        let others = |address: &str| others(address.parse().unwrap());
        assert_eq!(others("127.0.0.1:80"), None);
        assert_eq!(others("[::1]:80"), None);
        assert_eq!(others("10.1.2.3:80"), Some("10.1.2.3:80".parse().unwrap()));
        for all in ["0.0.0.0:80", "[::]:80"] {
            let found = others(all);
            assert!(
                found.is_none_or(|address| address.port() == 80
                    && !address.ip().is_loopback()
                    && !address.ip().is_unspecified()),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_key_has_its_place_in_the_url() {
        let address = "10.1.2.3:8080".parse().unwrap();
        assert_eq!(
            Banner::new(address, true, true).url(address, "user:KEY@"),
            "https://user:KEY@10.1.2.3:8080/"
        );
        let named = Banner::new(address, true, true).name(Some("vae.example.org".to_owned()));
        assert_eq!(named.url(address, "user:KEY@"), "https://user:KEY@vae.example.org:8080/");
    }
}
