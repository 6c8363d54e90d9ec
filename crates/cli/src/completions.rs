//! `remote-vae completions`.

use clap_complete::Shell;

use crate::{args, terminal};

/// Print what a shell needs to complete commands, flags and file names
#[derive(Debug, clap::Args)]
#[command(after_help = "Into the folder that the shell reads, for example:\n  \
    remote-vae completions bash > ~/.local/share/bash-completion/completions/remote-vae\n  \
    remote-vae completions zsh > ~/.zfunc/_remote-vae      (with fpath+=~/.zfunc before compinit in ~/.zshrc)\n  \
    remote-vae completions fish > ~/.config/fish/completions/remote-vae.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "remote-vae", &mut script);
    if args.shell == Shell::Bash {
        // Behind a command it offers nothing where the program's name has a hyphen: clap-rs/clap#6421.
        script = String::from_utf8(script)?.replace("remote__subcmd__vae", "remote__vae").into_bytes();
    }
    terminal::document(&script);
    Ok(())
}
