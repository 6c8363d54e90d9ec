//! Variables that are named as ours and are none: a slip of the keyboard should not pass in silence.

use std::collections::BTreeSet;

use tracing::warn;

use super::{command, links};
use crate::source;

/// How the variables of flags begin.
const PREFIX: &str = "REMOTE_VAE_";

/// Warns of variables that no command has a flag for.
pub(crate) fn report() {
    let known = known();
    for (name, value) in std::env::vars_os() {
        let (Some(name), value) = (name.to_str(), value.to_string_lossy()) else { continue };
        if let Some(warning) = unknown(name, &value, &known) {
            warn!("{warning}");
        }
    }
}

/// The variables of all commands.
fn known() -> BTreeSet<String> {
    // Those that are passed over now have their flag all the same.
    let mut root = command();
    root.build();
    let commands = std::iter::once(&root).chain(root.get_subcommands());
    let flags = commands.flat_map(|command| command.get_arguments()).filter_map(|arg| arg.get_long());
    flags.map(variable).collect()
}

/// The variable of a flag.
pub(super) fn variable(long: &str) -> String {
    format!("{PREFIX}{}", long.replace('-', "_").to_uppercase())
}

/// What is said of a variable that is named as ours and that no flag has.
fn unknown(name: &str, value: &str, known: &BTreeSet<String>) -> Option<String> {
    if !name.starts_with(PREFIX) || known.contains(name) || links::is_of_kubernetes(name, value) {
        return None;
    }
    let near = source::nearest(name, known.iter().map(String::as_str));
    let meant = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    Some(format!(
        "{name} is no setting and changes nothing: {meant}`remote-vae COMMAND --help` names those there are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_and_settings_are_not() {
        let known = known();
        let said = |name: &str, value: &str| unknown(name, value, &known);
        assert!(said("REMOTE_VAE_PROT", "9").unwrap().contains("did you mean REMOTE_VAE_PORT?"));
        assert!(said("REMOTE_VAE_MAX_QUEU", "9").unwrap().contains("did you mean REMOTE_VAE_MAX_QUEUE?"));
        let other = said("REMOTE_VAE_SOMETHING_ELSE", "9").unwrap();
        assert!(other.contains("is no setting") && !other.contains("did you mean"), "{other}");
        for (name, value) in [
            ("REMOTE_VAE_PORT", "9"),
            ("REMOTE_VAE_OUT", "a.png"),
            ("PATH", "/bin"),
            ("REMOTE_VAE_SERVICE_HOST", "10.96.0.12"),
            ("REMOTE_VAE_SERVICE_PORT_HTTP", "8080"),
            ("REMOTE_VAE_GPU_PORT", "tcp://10.96.0.12:8080"),
            ("REMOTE_VAE_PORT_8080_TCP_ADDR", "10.96.0.12"),
        ] {
            assert_eq!(said(name, value), None, "{name}");
        }
    }
}
