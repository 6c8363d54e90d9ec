//! Variables that Kubernetes makes of Services, and that look like ours.
//!
//! Of a Service that is called remote-vae each pod gets `REMOTE_VAE_PORT=tcp://10.0.0.1:8080`, and some more that no flag
//! has. Nobody has set them, so they are no reason to refuse to start.

use tracing::info;

/// Whether a variable of ours has such a value now, and is to be passed over.
pub(crate) fn is_link(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| is_service(variable, &value))
}

/// Says in the log which variables are passed over.
pub(crate) fn report() {
    for (variable, value) in std::env::vars_os() {
        let (Some(variable), Some(value)) = (variable.to_str(), value.to_str()) else { continue };
        // Others of such a Service, such as REMOTE_VAE_PORT_8080_TCP, have no flag.
        let is_flag = matches!(variable, "REMOTE_VAE_PORT" | "REMOTE_VAE_ADMIN_PORT");
        if is_flag && is_service(variable, value) {
            info!("{variable}={value} is Kubernetes' link to a Service, not a setting: it is passed over");
        }
    }
}

/// Whether a variable is one of those that Kubernetes makes of a Service whose name begins with ours.
pub(crate) fn is_of_kubernetes(variable: &str, value: &str) -> bool {
    let of_a_port = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| variable.contains(protocol));
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.contains("_PORT_") && of_a_port
        || is_service(variable, value)
}

/// Whether Kubernetes writes this for a Service: a protocol, an address and a port.
fn is_service(variable: &str, value: &str) -> bool {
    let Some((protocol, address)) = value.split_once("://") else { return false };
    variable.starts_with("REMOTE_VAE_")
        && variable.ends_with("_PORT")
        && matches!(protocol, "tcp" | "udp" | "sctp")
        && address.parse::<std::net::SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_services() {
        assert!(is_service("REMOTE_VAE_PORT", "tcp://10.96.0.12:8080"));
        assert!(is_service("REMOTE_VAE_ADMIN_PORT", "udp://[fd00::1]:8081"));
        for (variable, value) in [
            ("REMOTE_VAE_PORT", "8080"),
            ("REMOTE_VAE_PORT", "tcp://host:8080"),
            ("REMOTE_VAE_PORT", "http://10.96.0.12:8080"),
            ("REMOTE_VAE_ENDPOINT", "tcp://10.96.0.12:8080"),
        ] {
            assert!(!is_service(variable, value), "{variable}={value}");
        }
    }
}
