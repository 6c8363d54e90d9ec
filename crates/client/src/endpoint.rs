//! The address of a server, and what of it may be shown.

use reqwest::Url;

use crate::Error;

/// A URL that this client can use.
#[derive(Clone)]
pub(crate) struct Endpoint {
    url: Url,
    public: String,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Endpoint { endpoint: without_secrets(text), reason };
        // `localhost:8080` is a URL, too, whose scheme is localhost.
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        match scheme.as_str() {
            "http" => {}
            "https" if cfg!(feature = "tls") => {}
            "https" => return Err(wrong("this program was built without the feature `tls`".to_owned())),
            _ => {
                return Err(wrong(
                    "an endpoint is a URL that begins with http:// or https://, such as http://127.0.0.1:8080/"
                        .to_owned(),
                ));
            }
        }
        let url: Url = text.parse().map_err(|error| {
            wrong(format!("{error}; an endpoint is a URL such as http://127.0.0.1:8080/"))
        })?;
        let public = without_secrets(url.as_str());
        Ok(Self { url, public })
    }

    /// The URL with more parameters; those it has stay.
    pub(crate) fn with_query(&self, query: &str) -> Url {
        let mut url = self.url.clone();
        let query = match url.query() {
            Some(own) if !own.is_empty() => format!("{own}&{query}"),
            _ => query.to_owned(),
        };
        url.set_query(Some(&query));
        url
    }

    /// Another path on the same server, with the same user and parameters.
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }

    /// The path, which names the model.
    pub(crate) fn path(&self) -> &str {
        self.url.path()
    }

    /// Without user, password and query.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// Whether it carries a user, who is sent as Basic authorization.
    pub(crate) fn has_user(&self) -> bool {
        !self.url.username().is_empty() || self.url.password().is_some()
    }

    #[cfg(feature = "tls")]
    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The host's name or address.
    #[cfg(feature = "tls")]
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Whether it is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.public)
    }
}

/// A URL, or what was meant as one, without the parts that carry keys.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = host.rsplit('@').next().unwrap_or_default();
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_added_to() {
        let full = |text: &str| Endpoint::parse(text).unwrap().with_query("a=1").to_string();
        assert_eq!(full("http://host"), "http://host/?a=1");
        assert_eq!(full("http://host/sdxl?"), "http://host/sdxl?a=1");
        assert_eq!(full("http://host/?api_key=x"), "http://host/?api_key=x&a=1");
        let endpoint = Endpoint::parse("http://user:KEY@host/sdxl?api_key=x").unwrap();
        assert_eq!(endpoint.at("/ready").as_str(), "http://user:KEY@host/ready?api_key=x");
    }

    #[test]
    fn secrets_stay_inside() {
        let endpoint = Endpoint::parse("http://user:KEY@host:80/sdxl?api_key=KEY#x").unwrap();
        assert_eq!(endpoint.public(), "http://host/sdxl");
        assert_eq!(format!("{endpoint:?}"), "http://host/sdxl");
        for text in ["ftp://user:KEY@host/", "user:KEY@host/?api_key=KEY", "http://user:KEY@host:x"] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(!error.contains("KEY"), "{error}");
        }
    }

    #[test]
    fn addresses_that_cannot_be() {
        let such_as = "begins with http:// or https://, such as http://127.0.0.1:8080/";
        for (text, reason) in [
            ("127.0.0.1:8080", such_as),
            ("localhost:8080", such_as),
            ("", such_as),
            ("ftp://host/", such_as),
            ("http://", "an endpoint is a URL such as"),
            ("http://host:port/", "an endpoint is a URL such as"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!(Endpoint::parse("https://host/").is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn this_machine() {
        for (text, expected) in [
            ("http://127.0.0.1:8080", true),
            ("http://localhost/", true),
            ("http://[::1]:8080/", true),
            ("http://10.0.0.1/", false),
            ("http://localhost.example.org/", false),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().is_loopback(), expected, "{text}");
        }
    }
}
