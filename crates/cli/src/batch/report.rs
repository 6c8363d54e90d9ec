//! What is told of a batch: a bar or plain lines for people on stderr, one JSON object a line for programs on stdout.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::builder::styling::AnsiColor;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Item, Made, Tally};
use crate::place::OnRetry;
use crate::progress;

/// Between two plain lines about the progress.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Seconds that the rate is averaged over.
const WINDOW: f64 = 10.0;

/// Whom a batch reports to.
pub(crate) struct Report {
    bar: ProgressBar,
    /// Whether people watch a bar; otherwise they read lines, perhaps later, in a file.
    live: bool,
    quiet: bool,
    json: bool,
    start: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    last_line: Option<Instant>,
}

impl Report {
    /// About `total` items; in JSON on stdout too.
    pub(crate) fn new(total: usize, json: bool) -> Self {
        let live = std::io::stderr().is_terminal();
        Self::with(progress::add(ProgressBar::new(total as u64)), live, json, false)
    }

    /// To nobody.
    #[cfg(test)]
    pub(crate) fn silent(total: usize) -> Self {
        Self::with(
            ProgressBar::with_draw_target(Some(total as u64), indicatif::ProgressDrawTarget::hidden()),
            false,
            false,
            true,
        )
    }

    fn with(bar: ProgressBar, live: bool, json: bool, quiet: bool) -> Self {
        let style = "{bar:30.cyan/dim} {pos}/{len}  {per_sec:>9}  {eta} left{msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            let per_second = |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
                let _ = write!(to, "{:.1}/s", state.per_sec());
            };
            bar.set_style(style.progress_chars("━━─").with_key("per_sec", per_second));
        }
        if live {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        let state = State {
            tally: Tally { total: bar.length().unwrap_or(0) as usize, ..Tally::default() },
            last_line: None,
        };
        Self { bar, live, quiet, json, start: Instant::now(), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An item is written.
    pub(crate) fn done(&self, item: &Item, made: &Made, time: Duration) {
        self.line(|| {
            event("done", item, json!({ "what": made.what, "bytes": made.bytes, "seconds": seconds(time) }))
        });
        if let Some(preview) = &made.preview {
            self.bar.suspend(|| eprintln!("{preview}\n{}", item.out.display()));
        }
        self.step(|tally| tally.done += 1);
    }

    /// An item was written by an earlier run.
    pub(crate) fn skipped(&self, item: &Item) {
        self.line(|| event("skipped", item, json!({})));
        // What took no time would make the rate, and the time that is left, look good.
        self.bar.reset_eta();
        self.step(|tally| tally.skipped += 1);
    }

    /// An item cannot be done.
    pub(crate) fn failed(&self, item: &Item, error: &anyhow::Error) {
        let sentence = crate::sentence(error);
        self.line(|| event("failed", item, json!({ "error": sentence })));
        if !self.quiet {
            let style = AnsiColor::Yellow.on_default().bold();
            self.bar.suspend(|| anstream::eprintln!("{style}failed{style:#}: {}: {sentence}", item.input()));
        }
        self.step(|tally| tally.failed += 1);
    }

    /// Something that people should know, from another thread.
    pub(crate) fn notes(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let (bar, quiet) = (self.bar.clone(), self.quiet);
        move |text| {
            if !quiet {
                bar.suspend(|| anstream::eprintln!("{text}"));
            }
        }
    }

    /// For a client: pauses that people would notice.
    pub(crate) fn on_retry(&self) -> OnRetry {
        let note = self.notes();
        Box::new(move |error, pause| {
            if pause.as_secs() >= 2 {
                note(&format!("{error}; trying again in {} s", pause.as_secs()));
            }
        })
    }

    fn step(&self, count: impl FnOnce(&mut Tally)) {
        self.bar.inc(1);
        let mut state = self.state();
        count(&mut state.tally);
        if self.live || self.quiet {
            return;
        }
        let now = Instant::now();
        let last = *state.last_line.get_or_insert(self.start);
        if now - last >= BETWEEN_LINES {
            state.last_line = Some(now);
            let Tally { total, done, skipped, failed } = state.tally;
            let rate = done as f64 / (now - self.start).as_secs_f64().max(1.0 / WINDOW);
            let left = Duration::from_secs_f64(state.tally.left() as f64 / rate.max(1e-9));
            eprintln!("{} of {total}, {rate:.1}/s, {} left", done + skipped + failed, for_people(left));
        }
    }

    /// The summary. What it counts is what [`super::run`] decides by.
    pub(crate) fn finish(&self) -> Tally {
        self.bar.finish_and_clear();
        let (tally, time) = (self.state().tally, self.start.elapsed());
        let Tally { total, done, skipped, failed } = tally;
        self.line(|| {
            json!({
                "event": "summary", "total": total, "done": done, "skipped": skipped, "failed": failed,
                "not_done": tally.left(), "seconds": seconds(time),
            })
        });
        if !self.quiet {
            let mut parts = vec![format!("{done} done")];
            for (count, name) in
                [(skipped, "were there already"), (failed, "failed"), (tally.left(), "not done")]
            {
                if count > 0 {
                    parts.push(format!("{count} {name}"));
                }
            }
            let rate = done as f64 / time.as_secs_f64().max(1e-9);
            let (parts, time) = (parts.join(", "), for_people(time));
            eprintln!("{parts} in {time}, {rate:.1}/s");
        }
        tally
    }

    /// A line for programs, if they listen. That nobody reads it any more is no reason to fail.
    fn line(&self, line: impl FnOnce() -> Value) {
        if self.json {
            let line = format!("{}\n", line());
            self.bar.suspend(|| {
                let _ = std::io::stdout().lock().write_all(line.as_bytes());
            });
        }
    }
}

/// One event of an item.
fn event(event: &str, item: &Item, more: Value) -> Value {
    let mut line = json!({ "event": event, "input": item.input(), "output": item.out.display().to_string() });
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}

/// Thousandths are enough.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

/// `7.3 s`, `4 min 05 s`, `2 h 10 min`.
fn for_people(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, expected) in
            [(0, "0.0 s"), (59, "59.0 s"), (60, "1 min 00 s"), (245, "4 min 05 s"), (7800, "2 h 10 min")]
        {
            assert_eq!(for_people(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn events_say_what_came_of_what() {
        let item = Item { path: "a.npz".into(), tensor: Some("x".to_owned()), out: "b/a-x.png".into() };
        let line = event("failed", &item, json!({ "error": "no" }));
        let expected = json!({ "event": "failed", "input": "a.npz:x", "output": "b/a-x.png", "error": "no" });
        assert_eq!(line, expected);
    }
}
