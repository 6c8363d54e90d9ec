//! Tells the program which commit it was built from, for the records of `remote-vae bench`.
//!
//! Without git, or outside of this project's own repository, there is no commit to tell, and that is fine.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // In an unpacked archive inside of somebody else's repository, git would answer with that one's commit.
    if git(&["rev-parse", "--show-prefix"]).as_deref() != Some("crates/cli/") {
        return;
    }
    // Every change of what the program is made of, and every commit and checkout, makes this run again.
    println!("cargo::rerun-if-changed=..");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]) {
        println!("cargo::rustc-env=REMOTE_VAE_COMMIT={commit}");
    }
}

/// What git says to this, in one line.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
