//! Where this program prints. Text of others - a server's words, names of files, tensors and models - may hold
//! characters that a terminal obeys, so nothing is printed past this module, and a test holds that.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::progress;

/// Prints a line for a person on stdout. That nobody reads any more (`remote-vae quickstart | head`) is no reason to
/// fail; that the disk is full is, and is told at the end.
macro_rules! say {
    ($($text:tt)*) => { $crate::terminal::say(format_args!($($text)*)) };
}

/// Prints a line for a person on stderr.
macro_rules! note {
    ($($text:tt)*) => { $crate::terminal::note(format_args!($($text)*)) };
}

/// Whether a terminal does something else with a character than to show it: controls, those of C1, and what changes the
/// direction or the line of text.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text of others as part of a line, with JSON's escapes for what a terminal would obey.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains(is_obeyed) { text.chars().fold(String::new(), escape).into() } else { text.into() }
}

/// The name of a file as part of a line.
pub(crate) fn shown(path: &Path) -> String {
    plain(&path.to_string_lossy()).into_owned()
}

fn escape(mut text: String, c: char) -> String {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        // Every one of them has four digits, so that it is an escape of JSON, too.
        c if is_obeyed(c) => drop(write!(text, "\\u{:04x}", u32::from(c))),
        c => text.push(c),
    }
    text
}

/// Our own lines, which may have colours. The last guard: what others have written is [`plain`] already.
fn lines(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let style = style_at(rest);
        if style > 0 {
            safe.push_str(&rest[..style]);
            rest = &rest[style..];
            continue;
        }
        if c == '\n' {
            safe.push(c)
        } else {
            safe = escape(safe, c)
        }
        rest = &rest[c.len_utf8()..];
    }
    safe
}

/// The length of the colour or style (SGR) that a text begins with, 0 if it begins with none.
fn style_at(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\x1b[") else { return 0 };
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
    match end {
        Some(end) if parameters[end..].starts_with('m') => 2 + end + 1,
        _ => 0,
    }
}

/// Why stdout could not be written, the first time.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// As `say!`.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    write_out(format!("{}\n", lines(&text.to_string())).as_bytes());
}

/// A line for programs, on stdout.
pub(crate) fn json(value: &serde_json::Value) {
    write_out(format!("{}\n", plain(&value.to_string())).as_bytes());
}

/// Text of our own on stdout, as it is.
pub(crate) fn document(text: &[u8]) {
    write_out(text);
}

fn write_out(bytes: &[u8]) {
    let write = || {
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    };
    match progress::suspend(write) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        _ => {}
    }
}

/// An error if something that belongs to stdout could not be written there.
///
/// # Errors
/// Why it could not.
pub(crate) fn check() -> anyhow::Result<()> {
    match &*LOST.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => anyhow::bail!("cannot write to stdout: {error}"),
        None => Ok(()),
    }
}

/// As `note!`.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let _ = progress::suspend(|| writeln!(anstream::stderr(), "{}", lines(&text.to_string())));
}

/// What takes the place of the line that the terminal's cursor is in: a percentage, say, of our own.
pub(crate) fn status(text: &str) {
    let _ = write!(anstream::stderr(), "\r{text}");
}

/// A picture for a terminal, made here of pixels or as base64.
pub(crate) fn picture(text: &str) {
    let _ = progress::suspend(|| writeln!(io::stderr(), "{text}"));
}

/// What clap has to say, help or an error. Its text repeats arguments.
pub(crate) fn usage(error: &clap::Error) {
    let text = error.render();
    let own = std::env::args_os().all(|argument| !argument.to_string_lossy().contains(is_obeyed));
    let text = if own { text.ansi().to_string() } else { text.to_string() };
    let text = lines(&text);
    if error.use_stderr() {
        let _ = write!(anstream::stderr(), "{text}");
    } else {
        write_out(text.as_bytes());
    }
}

/// Writes log lines to stderr.
pub(crate) struct Log;

impl Write for Log {
    /// Takes one event, which is one line whatever is in it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = lines(text.strip_suffix('\n').unwrap_or(&text)).replace('\n', "\\n");
        progress::suspend(|| io::stderr().write_all(format!("{line}\n").as_bytes()))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A panic is a mistake of this program. What it says may hold text of others.
pub(crate) fn tell_of_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let place = place.unwrap_or_default();
        note!("internal error{place}: {}", plain(info.payload_as_str().unwrap_or("without a message")));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            note!("{trace}");
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        for (text, expected) in [
            ("latents of a fox, ümlaut 狐 🦊", "latents of a fox, ümlaut 狐 🦊"),
            ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
            ("\u{9b}31m", "\\u009b31m"),
            ("a\r\n\tb\x08\x7f", "a\\r\\n\\tb\\u0008\\u007f"),
            ("gpj.\u{202e}png\u{2066}\u{200f}", "gpj.\\u202epng\\u2066\\u200f"),
            ("\u{2028}", "\\u2028"),
        ] {
            assert_eq!(plain(text), expected);
            let json: String = serde_json::from_str(&format!("\"{}\"", plain(text))).unwrap();
            assert_eq!(json, text, "the escapes are JSON's");
        }
    }

    #[test]
    fn of_our_own_lines_only_colours_and_line_feeds_reach_a_terminal() {
        let bold = "\x1b[1mremote-vae\x1b[0m\n\x1b[38;5;196mred\x1b[m";
        assert_eq!(lines(bold), bold);
        assert_eq!(lines("\x1b[2J\x1b[1;1H\x1b[31"), "\\u001b[2J\\u001b[1;1H\\u001b[31");
        assert_eq!(lines("\r\u{202e}"), "\\r\\u202e");
    }

    /// Every other way to print is one that somebody forgot to guard.
    #[test]
    fn nothing_is_printed_past_this_module() {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                    continue;
                }
                if path.file_name().is_some_and(|name| name == "terminal.rs") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let prints = ["print!(", "println!(", "stdout()", "stderr()"];
                let bad = text.lines().filter(|line| {
                    let allowed = ["is_terminal()", "AutoStream::choice", "use_stderr()"];
                    prints.iter().any(|print| line.contains(print))
                        && !allowed.iter().any(|word| line.contains(word))
                });
                found.extend(bad.map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
        let mut found = Vec::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(found, Vec::<String>::new(), "use say!, note! or another function of terminal.rs");
    }
}
