//! What can be said on the command line. The arguments of one command are in its own file; here are the whole, and the
//! groups that several commands share or that are a topic of their own.

pub(crate) mod batch;
pub(crate) mod doors;
pub(crate) mod engine;
pub(crate) mod heading;
pub(crate) mod limits;
pub(crate) mod links;
pub(crate) mod number;
pub(crate) mod options;
pub(crate) mod place;
pub(crate) mod size;
pub(crate) mod variables;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::Targets;

use crate::bench::BenchArgs;
use crate::completions::CompletionsArgs;
use crate::config::{self, Arguments};
use crate::decode::DecodeArgs;
use crate::encode::EncodeArgs;
use crate::health::HealthArgs;
use crate::models::ModelsArgs;
use crate::pull::PullArgs;
use crate::quickstart::QuickstartArgs;
use crate::roundtrip::RoundtripArgs;
use crate::serve::ServeArgs;
use crate::terminal;

/// Decode the latents of diffusion models over HTTP, and encode pictures, compatible with diffusers' remote_decode and
/// remote_encode
#[derive(Debug, Parser)]
#[command(name = "remote-vae", version, max_term_width = 110)]
#[command(
    after_help = "New here? Run `remote-vae quickstart`: it needs nothing else and takes a few seconds.\n\n\
    Every flag is also an environment variable: --port is REMOTE_VAE_PORT. The command line goes first."
)]
pub(crate) struct Args {
    /// What to log on stderr: error, warn, info, debug or trace [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = heading::LOG)]
    pub(crate) log: Option<Targets>,
    /// How log lines are written
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", help_heading = heading::LOG)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, for collectors.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    /// Print the settings that `serve` would have, and where each comes from
    #[command(
        after_help = "Takes what serve takes, and prints it as a file for --config. A flag goes before its environment \
        variable, that before the file, and that before the default.\n\nExample:\n  \
        REMOTE_VAE_PORT=9000 remote-vae config --config remote-vae.toml --max-queue 64"
    )]
    Config(ServeArgs),
    Decode(DecodeArgs),
    Encode(EncodeArgs),
    Roundtrip(RoundtripArgs),
    Quickstart(QuickstartArgs),
    Bench(BenchArgs),
    Models(ModelsArgs),
    Completions(CompletionsArgs),
    Pull(PullArgs),
    Health(HealthArgs),
}

/// The command line with its variables: every flag is also one, `--port` is `REMOTE_VAE_PORT`, where yes and no may
/// be said in several ways.
pub(crate) fn command() -> clap::Command {
    // It has one picture to send.
    let one_endpoint = "URL of a server, ours or any other that diffusers' client works with";
    let command = Args::command().mut_subcommand("roundtrip", |roundtrip| {
        roundtrip.mut_arg("endpoint", |arg| arg.help(one_endpoint).long_help(None::<&str>))
    });
    with_variables(command)
}

fn with_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long() else { return arg };
        let variable = variables::variable(long);
        if links::is_link(&variable) {
            return arg;
        }
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        // A number below 0 is told to be none, and not taken for a flag.
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let arg = arg.env(variable).hide_env_values(true);
        let arg = if takes_value { arg.allow_negative_numbers(true) } else { arg };
        if is_switch { arg.value_parser(BoolishValueParser::new()) } else { arg }
    });
    command.mut_subcommands(with_variables)
}

impl Args {
    /// What the command line, the environment and the configuration file say; ends the program with help or an error
    /// where they say so
    ///
    /// # Errors
    /// A configuration file that cannot be read or understood
    pub(crate) fn read() -> anyhow::Result<Self> {
        let arguments = Arguments::new(std::env::args_os())?;
        let matches = command().try_get_matches_from(&arguments.all).unwrap_or_else(|error| {
            terminal::usage(&error);
            if let (true, Some(file)) = (error.use_stderr(), arguments.file()) {
                note!("\nSettings of {} are among these arguments.", terminal::shown(file));
            }
            std::process::exit(match terminal::check() {
                Ok(()) => error.exit_code(),
                // Help that nobody can read is none.
                Err(lost) => {
                    note!("error: {lost}");
                    1
                }
            })
        });
        if let Some(("config", matches)) = matches.subcommand() {
            config::print(matches, &arguments);
        }
        Ok(Self::from_matches(&matches).unwrap_or_else(|error| {
            terminal::usage(&error);
            std::process::exit(error.exit_code())
        }))
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::from_arg_matches(matches).map_err(|error| error.format(&mut command()))?;
        let Some((name, matches)) = matches.subcommand() else { return Ok(args) };
        let settled = match &mut args.command {
            Command::Decode(args) => args.place.settle(matches),
            Command::Encode(args) => args.place.settle(matches),
            Command::Roundtrip(args) => args.place.settle(matches),
            Command::Bench(args) => {
                args.model.settle(matches);
                Ok(())
            }
            Command::Serve(args) | Command::Config(args) => {
                args.settle(matches);
                Ok(())
            }
            Command::Quickstart(_)
            | Command::Models(_)
            | Command::Completions(_)
            | Command::Pull(_)
            | Command::Health(_) => Ok(()),
        };
        match settled {
            Ok(()) => Ok(args),
            Err(contradiction) => {
                // With the usage of this very command.
                let mut root = command();
                root.build();
                let command = root.find_subcommand(name).cloned();
                Err(command.unwrap_or(root).error(ErrorKind::ArgumentConflict, contradiction))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_server_is_not_told_how_this_machine_computes() {
        let parse = |flags: &[&str]| {
            let arguments = [&["remote-vae", "decode", "a.npy", "-o", "b.png"], flags].concat();
            Args::from_matches(&command().get_matches_from(arguments)).map_err(|error| error.to_string())
        };
        assert!(parse(&["--model=demo", "--threads=2"]).is_ok());
        for flag in ["--threads=2", "--isa=scalar", "--numerics=fast", "--storage=f32"] {
            let error = parse(&["--endpoint=http://localhost", flag]).unwrap_err();
            assert!(error.contains("drop one of them"), "{flag}: {error}");
            assert!(error.contains("Usage: remote-vae decode"), "{error}");
        }
    }

    #[test]
    fn what_people_want_first_stands_first() {
        for (name, first, groups) in [
            (
                "serve",
                &["--model", "--lazy", "--host", "--port", "--config"][..],
                &[
                    "Arguments",
                    "Options",
                    heading::ACCESS,
                    heading::REQUESTS,
                    heading::MEMORY,
                    heading::TIME,
                    heading::ENGINE,
                    heading::LOG,
                ][..],
            ),
            (
                "decode",
                &["-o, --out", "--model", "--endpoint"],
                &[
                    "Arguments",
                    "Options",
                    heading::OUTPUT,
                    heading::LATENTS,
                    heading::MEMORY,
                    heading::MANY,
                    heading::SERVER,
                    heading::ENGINE,
                    heading::LOG,
                ],
            ),
            (
                "encode",
                &["-o, --out", "--model", "--endpoint"],
                &[
                    "Arguments",
                    "Options",
                    heading::LATENTS,
                    heading::OUTPUT,
                    heading::MEMORY,
                    heading::MANY,
                    heading::SERVER,
                    heading::ENGINE,
                    heading::LOG,
                ],
            ),
        ] {
            let mut command = command();
            command.build();
            let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            let found: Vec<_> = help
                .lines()
                .filter(|line| !line.starts_with([' ', 'E']))
                .filter_map(|line| line.strip_suffix(':'))
                .collect();
            assert_eq!(found, groups, "{help}");
            let options = help.split("\nOptions:\n").nth(1).unwrap();
            let places: Vec<_> = first.iter().map(|flag| options.find(flag).unwrap()).collect();
            assert!(places.is_sorted() && options[..places[0]].trim().is_empty(), "{help}");
        }
    }

    #[test]
    fn defaults_are_printed_as_they_are_written() {
        let mut command = command();
        command.build();
        let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        // Lines end anywhere.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for default in [
            "[default: 64MiB, for models of videos 384MiB]",
            "[default: 512MiB]",
            "[default: 1h]",
            "[default: 30s]",
        ] {
            assert!(help.contains(default), "{default} is missing in\n{help}");
        }
    }

    #[test]
    fn models_are_named_with_and_without_a_flag() {
        let models = |arguments: &[&str]| {
            let arguments = [&["remote-vae", "serve"], arguments].concat();
            let matches = command()
                .mut_subcommand("serve", |serve| serve.mut_arg("models", |arg| arg.env(None::<&str>)));
            let Command::Serve(args) =
                Args::from_matches(&matches.get_matches_from(arguments)).unwrap().command
            else {
                unreachable!()
            };
            let models = args.models.iter().flat_map(|models| &models.0);
            models.map(|model| model.name().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(models(&[]), ["demo"]);
        assert_eq!(models(&["sdxl", "a=demo"]), ["sdxl", "a"]);
        assert_eq!(models(&["--model", "flux"]), ["flux"]);
        // In the order of the command line: the first one is the default.
        assert_eq!(models(&["--model", "flux", "sdxl"]), ["flux", "sdxl"]);
        assert_eq!(models(&["sdxl", "--model=a=demo,b=demo", "flux"]), ["sdxl", "a", "b", "flux"]);
    }

    #[test]
    fn every_flag_is_also_a_variable() {
        let root = command();
        let mut flags = 0;
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            let own = |id: &str| !matches!(id, "help" | "version");
            for arg in command.get_arguments().filter(|arg| own(arg.get_id().as_str())) {
                let Some(long) = arg.get_long() else { continue };
                let expected = format!("REMOTE_VAE_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(expected.as_str()));
                flags += 1;
            }
        }
        assert!(flags > 15, "only {flags} flags were seen");
    }
}
