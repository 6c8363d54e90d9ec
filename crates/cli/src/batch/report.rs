//! What is told of a batch: a bar or plain lines for people on stderr, one JSON object a line for programs on stdout.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::builder::styling::AnsiColor;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{Item, Made, Tally};
use crate::place::OnRetry;
use crate::progress;
use crate::terminal::{self, plain, shown};

/// Between two plain lines about the progress.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Seconds that the rate is averaged over.
const WINDOW: f64 = 10.0;

/// Whom a batch reports to.
pub(crate) struct Report {
    what: &'static str,
    bar: ProgressBar,
    /// Whether people watch a bar; otherwise they read lines, perhaps later, in a file.
    live: bool,
    quiet: bool,
    json: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    /// When the items were known and the work began.
    start: Option<Instant>,
    last_line: Option<Instant>,
    /// The first item with nothing to work on, and why.
    nothing: Option<String>,
}

impl Report {
    /// Of a batch whose items are not known yet; in JSON on stdout too. `what` they hold is for messages.
    pub(crate) fn new(what: &'static str, json: bool) -> Self {
        Self::with(what, std::io::stderr().is_terminal(), json, false)
    }

    /// To nobody.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self::with("latents", false, false, true)
    }

    fn with(what: &'static str, live: bool, json: bool, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { what, bar, live, quiet, json, state: Arc::default() }
    }

    /// So many items are to come.
    pub(crate) fn expect(&self, total: usize) {
        let mut state = self.state();
        state.tally.total = total;
        state.start = Some(Instant::now());
        drop(state);
        self.bar.set_length(total as u64);
        let style = "{bar:30.cyan/dim} {pos}/{len}  {per_sec:>9}  {eta} left{msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            let per_second = |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
                let _ = write!(to, "{:.1}/s", state.per_sec());
            };
            self.bar.set_style(style.progress_chars("━━─").with_key("per_sec", per_second));
        }
        if self.live {
            progress::add(self.bar.clone());
            self.bar.enable_steady_tick(Duration::from_millis(500));
        }
        self.bar.reset_eta();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An item is written.
    pub(crate) fn done(&self, item: &Item, made: &Made, time: Duration) {
        self.line(|| done(item, made, time));
        if let Some(preview) = &made.preview {
            terminal::picture(preview);
            note!("{}", shown(&item.out));
        }
        self.bar.inc(1);
        self.count(|tally| tally.done += 1);
    }

    /// An item was written by an earlier run.
    pub(crate) fn there(&self, item: &Item) {
        self.line(|| event("skipped", item, json!({ "reason": "it is there already" })));
        self.leave(|tally| tally.there += 1);
    }

    /// There is nothing in an item to work on.
    pub(crate) fn nothing(&self, item: &Item, why: &str) {
        self.line(|| event("skipped", item, json!({ "reason": why })));
        self.state().nothing.get_or_insert_with(|| format!("{}: {}", item.label(), plain(why)));
        self.leave(|tally| tally.nothing += 1);
    }

    /// What took no time is no part of what is to be done: it would make the rate, and the time that is left, look good.
    fn leave(&self, count: impl FnOnce(&mut Tally)) {
        self.bar.dec_length(1);
        self.count(count);
    }

    /// An item cannot be done.
    pub(crate) fn failed(&self, item: &Item, error: &anyhow::Error) {
        let sentence = crate::sentence(error);
        self.line(|| event("failed", item, json!({ "error": sentence })));
        if !self.quiet {
            let style = AnsiColor::Yellow.on_default().bold();
            note!("{style}failed{style:#}: {}: {sentence}", item.label());
        }
        self.bar.inc(1);
        self.count(|tally| tally.failed += 1);
    }

    /// Something that people should know, from another thread.
    pub(crate) fn notes(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let (bar, quiet) = (self.bar.clone(), self.quiet);
        move |text| {
            if !quiet {
                bar.suspend(|| note!("{}", plain(text)));
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

    fn count(&self, count: impl FnOnce(&mut Tally)) {
        let mut state = self.state();
        count(&mut state.tally);
        if self.live || self.quiet {
            return;
        }
        let now = Instant::now();
        let start = *state.start.get_or_insert(now);
        let last = *state.last_line.get_or_insert(start);
        if now - last >= BETWEEN_LINES {
            state.last_line = Some(now);
            note!("{}", state.tally.line(now - start));
        }
    }

    /// The summary. What it counts is what [`super::run`] decides by.
    pub(crate) fn finish(&self) -> Tally {
        self.bar.finish_and_clear();
        let (tally, start, example) = {
            let state = self.state();
            (state.tally, state.start, state.nothing.clone())
        };
        let time = start.map_or(Duration::ZERO, |start| start.elapsed());
        let Tally { done, there, nothing, failed, .. } = tally;
        self.line(|| summary(tally, time));
        if !self.quiet {
            let mut parts = vec![format!("{done} done")];
            let none = format!("without {}", self.what);
            for (count, name) in [
                (there, "were there already"),
                (nothing, &none),
                (failed, "failed"),
                (tally.left(), "not done"),
            ] {
                if count > 0 {
                    parts.push(format!("{count} {name}"));
                }
            }
            let rate = done as f64 / time.as_secs_f64().max(1e-9);
            let (parts, time) = (parts.join(", "), for_people(time));
            note!("{parts} in {time}, {rate:.1}/s");
            if let Some(example) = example {
                let others = if nothing > 1 { "; --json names the others" } else { "" };
                note!("{none}: {example}{others}");
            }
        }
        tally
    }

    /// A line for programs, if they listen.
    fn line(&self, line: impl FnOnce() -> Value) {
        if self.json {
            terminal::json(&line());
        }
    }
}

/// Tells programs of the only item that there was.
pub(super) fn tell_one(item: &Item, made: &Made, time: Duration) {
    terminal::json(&done(item, made, time));
    terminal::json(&summary(Tally { total: 1, done: 1, ..Tally::default() }, time));
}

fn done(item: &Item, made: &Made, time: Duration) -> Value {
    event("done", item, json!({ "what": made.what, "bytes": made.bytes, "seconds": seconds(time) }))
}

fn summary(tally: Tally, time: Duration) -> Value {
    let Tally { total, done, there, nothing, failed } = tally;
    json!({
        "event": "summary", "total": total, "done": done, "skipped": there + nothing, "failed": failed,
        "not_done": tally.left(), "seconds": seconds(time),
    })
}

impl Tally {
    /// How far it is after this time: `12 of 100, 2.0/s, 44.0 s left`. The rate is that of work, and so is what is left:
    /// files that are skipped take no time and are in neither.
    fn line(&self, time: Duration) -> String {
        let Self { total, done, there, nothing, failed } = *self;
        let worked = done + failed;
        let so_far = format!("{} of {total}", worked + there + nothing);
        if worked == 0 {
            return so_far;
        }
        let rate = worked as f64 / time.as_secs_f64().max(1.0 / WINDOW);
        let left = Duration::from_secs_f64(self.left() as f64 / rate);
        format!("{so_far}, {rate:.1}/s, {} left", for_people(left))
    }
}

/// One event of an item.
fn event(event: &str, item: &Item, more: Value) -> Value {
    // What holds nothing becomes nothing.
    let output = (!item.out.as_os_str().is_empty()).then(|| item.out.display().to_string());
    let mut line = json!({ "event": event, "input": item.input(), "output": output });
    if let (Some(line), Some(index)) = (line.as_object_mut(), item.index) {
        line.insert("index".to_owned(), index.into());
    }
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

    /// 90 of 100 files are there already and took no time; 5 of the other 10 took 10 seconds.
    #[test]
    fn the_time_that_is_left_is_that_of_work() {
        let tally = Tally { total: 100, done: 4, there: 80, nothing: 10, failed: 1 };
        assert_eq!(tally.line(Duration::from_secs(10)), "95 of 100, 0.5/s, 10.0 s left");
        let tally = Tally { total: 100, there: 80, ..Tally::default() };
        assert_eq!(tally.line(Duration::from_secs(10)), "80 of 100");

        // The bar counts the same.
        let report = Report::silent();
        report.expect(100);
        let item = Item::new("a.npy".into(), None, "a.png".into());
        (0..90).for_each(|_| report.there(&item));
        (0..4).for_each(|_| {
            report.done(&item, &Made { what: String::new(), bytes: 0, preview: None }, Duration::ZERO)
        });
        report.failed(&item, &anyhow::anyhow!("no"));
        assert_eq!((report.bar.position(), report.bar.length()), (5, Some(10)));
        assert_eq!(report.finish().left(), 5);
    }

    #[test]
    fn events_say_what_came_of_what() {
        let item = Item::new("a.npz".into(), Some("x".to_owned()), "b/a-x.png".into());
        let line = event("failed", &item, json!({ "error": "no" }));
        let expected = json!({ "event": "failed", "input": "a.npz:x", "output": "b/a-x.png", "error": "no" });
        assert_eq!(line, expected);
    }
}
