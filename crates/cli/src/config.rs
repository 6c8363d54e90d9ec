//! The settings of `serve` from a file, and where each one that is in force comes from.
//!
//! The flags of `serve` are the one list of settings: a file names them without their dashes. What a file says becomes
//! arguments of the command line, unless the command line or the environment says it already, so that a value means the
//! same wherever it stands and is refused with the same words.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

use crate::args;
use crate::source::in_order;

/// The commands that have the settings of a server.
const COMMANDS: [&str; 2] = ["serve", "config"];

/// The flag that names the file; it is not a setting itself.
const CONFIG: &str = "config";

/// The models, and those that stand on the command line without their flag.
const MODELS: &str = "models";
const SOURCES: &str = "sources";

/// Settings of which only the names are shown.
const SECRET: &str = "api_keys";

/// The arguments of this process, with those of the configuration file among them, and the file if there is one.
pub(crate) struct Arguments {
    pub(crate) all: Vec<OsString>,
    file: Option<(PathBuf, Table)>,
}

impl Arguments {
    /// Those of the command line, and of the file that it or the environment names.
    ///
    /// # Errors
    /// A file that cannot be read or says what no flag can mean.
    pub(crate) fn new(given: impl IntoIterator<Item = OsString>) -> anyhow::Result<Self> {
        let given: Vec<OsString> = given.into_iter().collect();
        // Mistakes of the command line are told when everything is together.
        let matches = args::command().ignore_errors(true).try_get_matches_from(&given);
        let Ok(matches) = matches else { return Ok(Self { all: given, file: None }) };
        let Some((name, matches)) = matches.subcommand().filter(|(name, _)| COMMANDS.contains(name)) else {
            return Ok(Self { all: given, file: None });
        };
        let Some(path) = matches.get_one::<PathBuf>(CONFIG).cloned() else {
            return Ok(Self { all: given, file: None });
        };
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Some editors of Windows begin every file with a byte order mark.
        let text = text.trim_start_matches('\u{feff}');
        let table: Table = text.parse().map_err(|error| no_toml(&path, text, &error))?;
        let command = serve(name);
        let mut from_file = Vec::new();
        for (key, value) in &table {
            let arg = setting(&command, key).with_context(|| format!("in {}", path.display()))?;
            let arguments = arguments(arg, value).with_context(|| format!("{key} in {}", path.display()))?;
            let said = |id: &str| {
                let source = matches.value_source(id);
                matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
            };
            let id = arg.get_id().as_str();
            let is_said = said(id) || (id == MODELS && said(SOURCES));
            if !is_said {
                from_file.extend(arguments);
            }
        }
        // Behind the command's name, wherever flags of the whole program stand before it.
        let at = given.iter().position(|argument| argument == name).map_or(given.len(), |at| at + 1);
        let mut all = given;
        all.splice(at..at, from_file.into_iter().map(OsString::from));
        Ok(Self { all, file: Some((path, table)) })
    }

    /// The file's name, for messages.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }
}

/// What is wrong with a file, and in which line.
fn no_toml(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let begin = error.span().map_or(0, |span| span.start);
    let line = text.get(..begin).unwrap_or(text).matches('\n').count() + 1;
    let what = error.message().lines().collect::<Vec<_>>().join(", ");
    anyhow!("{} is no TOML: line {line}: {what}", path.display())
}

/// The command with its settings, those of the whole program among them.
fn serve(name: &str) -> Command {
    let mut command = args::command();
    command.build();
    command.find_subcommand(name).cloned().unwrap_or(command)
}

/// What can be set.
fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    let own =
        |arg: &&Arg| arg.get_long().is_some_and(|long| !matches!(long, "help" | "version") && long != CONFIG);
    command.get_arguments().filter(own)
}

fn setting<'a>(command: &'a Command, key: &str) -> anyhow::Result<&'a Arg> {
    let found = settings(command).find(|arg| arg.get_long() == Some(key));
    found.with_context(|| {
        format!(
            "there is no setting {key:?}; `remote-vae config` lists them all, named as the flags of serve"
        )
    })
}

/// The arguments that say what the file says.
fn arguments(arg: &Arg, value: &Value) -> anyhow::Result<Vec<String>> {
    let flag = format!("--{}", arg.get_long().unwrap_or_default());
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Boolean(true) => Ok(vec![flag]),
            Value::Boolean(false) => Ok(Vec::new()),
            other => bail!("it is {other}, expected true or false"),
        };
    }
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("{flag}={text}")),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(format!("{flag}={value}")),
        other => bail!("it is {other}, expected a text or a number"),
    };
    match value {
        Value::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
            values.iter().map(one).collect()
        }
        Value::Array(_) => bail!("it is a list, expected one value"),
        value => Ok(vec![one(value)?]),
    }
}

/// Prints what is in force, as a file for `--config`, and where each value comes from.
pub(crate) fn print(matches: &ArgMatches, arguments: &Arguments) {
    let file = arguments.file.as_ref();
    let lines: Vec<_> = settings(&serve(CONFIG)).map(|arg| line(arg, matches, file)).collect();
    let width = lines.iter().map(|(setting, _)| setting.chars().count()).filter(|width| *width < 48).max();
    for (setting, origin) in &lines {
        say!("{setting:<width$}  # {origin}", width = width.unwrap_or(0));
    }
}

/// `key = value`, and where the value comes from.
fn line(arg: &Arg, matches: &ArgMatches, file: Option<&(PathBuf, Table)>) -> (String, String) {
    let (id, key) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
    let raw = |id: &str| -> Vec<String> {
        let values = matches.get_raw(id).unwrap_or_default();
        values.map(|value| value.to_string_lossy().into_owned()).collect()
    };
    // Models without their flag: what the environment or a file says is none of the list then.
    let without_flag = id == MODELS && matches.value_source(SOURCES).is_some();
    let with_flag = matches.value_source(id) == Some(ValueSource::CommandLine);
    let origin = match matches.value_source(id) {
        _ if without_flag && with_flag => format!("SOURCE, --{key}"),
        _ if without_flag => "SOURCE".to_owned(),
        Some(ValueSource::EnvVariable) => arg.get_env().unwrap_or_default().to_string_lossy().into_owned(),
        // What the file said went the way of the command line, which would have gone first.
        Some(ValueSource::CommandLine) => match file {
            Some((path, table)) if table.contains_key(key) && !given(key) => path.display().to_string(),
            _ => format!("--{key}"),
        },
        _ => "default".to_owned(),
    };
    let values: Vec<String> = match arg.get_action() {
        ArgAction::SetTrue => vec![matches.get_flag(id).to_string()],
        _ if without_flag && with_flag => in_order(matches, raw, &[SOURCES, MODELS]),
        _ if without_flag => raw(SOURCES),
        _ => raw(id),
    };
    let values: Vec<String> = values.iter().map(|value| shown(id, value)).collect();
    let value = match (arg.get_action(), values.as_slice()) {
        (_, []) => {
            return match derived(key) {
                Some(value) => {
                    (format!("{key} = {}", shown(id, &value)), "default, of this machine".to_owned())
                }
                None => (format!("# {key}"), default(arg)),
            };
        }
        (ArgAction::Append, values) => format!("[{}]", values.join(", ")),
        (_, values) => values.join(","),
    };
    (format!("{key} = {value}"), origin)
}

/// What is in force where nothing is said, by the help of the flag: `[default: ...]` at its end.
fn default(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let said = help.rsplit_once("[default: ").and_then(|(_, said)| said.strip_suffix(']'));
    said.filter(|said| *said != "none")
        .map_or_else(|| "not set".to_owned(), |said| format!("default: {said}"))
}

/// Whether the command line itself says it.
fn given(key: &str) -> bool {
    let flag = format!("--{key}");
    std::env::args().any(|argument| argument == flag || argument.starts_with(&format!("{flag}=")))
}

/// What is in force where nothing is said and the machine decides.
fn derived(key: &str) -> Option<String> {
    match key {
        "memory-limit" => Some(format!("{}MiB", service::memory::default_memory_limit()? >> 20)),
        "threads" => Some(std::thread::available_parallelism().ok()?.to_string()),
        _ => None,
    }
}

/// A value as TOML has it; of secrets only the names.
fn shown(id: &str, value: &str) -> String {
    if id == SECRET {
        let name = value.split_once(':').map_or(String::new(), |(name, _)| format!("{name}:"));
        return Value::String(format!("{name}***")).to_string();
    }
    match value.parse::<i64>() {
        Ok(_) => value.to_owned(),
        Err(_) if matches!(value, "true" | "false") => value.to_owned(),
        Err(_) => Value::String(value.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments_of(file: &str, flags: &[&str]) -> anyhow::Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("remote-vae.toml");
        std::fs::write(&path, file).unwrap();
        let config = format!("--config={}", path.display());
        let given = ["remote-vae", "serve", &config].into_iter().chain(flags.iter().copied());
        let all = Arguments::new(given.map(OsString::from))?.all;
        let all: Vec<_> = all.into_iter().map(|argument| argument.into_string().unwrap()).collect();
        // What the file says stands before the rest, and all of it can be parsed.
        args::command().try_get_matches_from(&all)?;
        Ok(all[2..].iter().take_while(|argument| **argument != config).cloned().collect())
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let file = "host = \"0.0.0.0\"\nmax-queue = 3\nlazy = true\ntrust-forwarded-for = false\n\
                    model = [\"a=demo\", \"b=demo\"]\nlog-format = \"json\"\n";
        let expected = [
            "--host=0.0.0.0",
            "--lazy",
            "--log-format=json",
            "--max-queue=3",
            "--model=a=demo",
            "--model=b=demo",
        ];
        for file in [file.to_owned(), format!("\u{feff}{file}")] {
            let mut found = arguments_of(&file, &[]).unwrap();
            found.sort();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_command_line_goes_first() {
        let file = "host = \"0.0.0.0\"\nmodel = [\"a=demo\"]\n";
        assert_eq!(arguments_of(file, &["--host=::1"]).unwrap(), ["--model=a=demo"]);
        assert_eq!(arguments_of(file, &["--model", "demo"]).unwrap(), ["--host=0.0.0.0"]);
    }

    #[test]
    fn what_no_flag_can_mean_is_refused() {
        for (file, expected) in [
            ("hots = \"a\"", "no setting \"hots\""),
            ("config = \"a\"", "no setting \"config\""),
            ("lazy = \"yes\"", "expected true or false"),
            ("port = [1, 2]", "expected one value"),
            ("port = { a = 1 }", "expected a text or a number"),
            ("host = \"a\"\nport = ", "is no TOML: line 2: "),
            ("port 9000", "is no TOML: line 1: "),
            ("port = \"many\"", "invalid value 'many' for '--port"),
        ] {
            let error = format!("{:#}", arguments_of(file, &[]).unwrap_err());
            assert!(error.contains(expected), "{file}: {error}");
            assert!(!error.contains(" | "), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("api_keys", "alice:0123456789abcdef"), "\"alice:***\"");
        assert_eq!(shown("api_keys", "0123456789abcdef"), "\"***\"");
        assert_eq!(
            [shown("port", "80"), shown("lazy", "true"), shown("host", "::")],
            ["80", "true", "\"::\""]
        );
    }
}
