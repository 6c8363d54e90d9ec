//! Progress on a terminal: all bars of this program, drawn below one another on stderr. Where stderr is no terminal, there
//! is nothing of them, not a byte.

use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use client::Activity;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use vae::{Cancelled, Observer};

use crate::place::{OnRetry, Place};
use crate::terminal::plain;

/// How often a bar is drawn though nothing has changed but the time.
const TICK: Duration = Duration::from_millis(200);

/// How often a server is asked what it is doing.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Pauses before another try that people would notice.
const NOTICED: Duration = Duration::from_secs(2);

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Draws this bar below the others.
pub(crate) fn add(bar: ProgressBar) -> ProgressBar {
    BARS.add(bar)
}

/// Does something without the bars, such as printing a line above them.
pub(crate) fn suspend<R>(print: impl FnOnce() -> R) -> R {
    BARS.suspend(print)
}

/// For a client: tells of pauses that people would notice.
pub(crate) fn on_retry() -> OnRetry {
    Box::new(|error, pause| {
        if pause >= NOTICED {
            note!("{}; trying again in {} s", plain(&error.to_string()), pause.as_secs());
        }
    })
}

/// One piece of work: what it is and for how long it has been done, and how far it is as soon as somebody says so. It
/// leaves nothing behind.
pub(crate) struct Work(ProgressBar);

impl Work {
    pub(crate) fn begin(what: String) -> Self {
        let bar = add(ProgressBar::no_length().with_message(plain(&what).into_owned()));
        set_style(&bar, "{spinner} {msg}, {elapsed}");
        // What is done before the first tick is shown too.
        bar.tick();
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Does it, and meanwhile shows what the server at `place`, if there is one that says so, is doing.
    pub(crate) fn follow<R>(&mut self, place: &Place, work: impl FnOnce(&mut Self) -> R) -> R {
        let Some(server) = place.server().filter(|_| !self.0.is_hidden()) else { return work(self) };
        let (bar, what) = (self.0.clone(), self.0.message());
        std::thread::scope(|scope| {
            let (done, over) = mpsc::channel::<()>();
            scope.spawn(move || {
                while over.recv_timeout(ASK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    let Ok(activity) = server.activity() else { return };
                    bar.set_message(format!("{what}{}", doing(activity)));
                }
            });
            let result = work(self);
            drop(done);
            result
        })
    }
}

/// What a server is doing, behind what is waited for.
fn doing(activity: Activity) -> String {
    let Activity { waiting, frames, frames_done, .. } = activity;
    let queue = if waiting > 0 { format!(", {waiting} in its queue") } else { String::new() };
    match frames {
        0 => queue,
        1 => format!(" (it works{queue})"),
        _ => format!(" (it works: {frames_done} of {frames} frames{queue})"),
    }
}

impl Observer for Work {
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        if self.0.length().is_none() {
            set_style(&self.0, "{spinner} {msg} {bar:30.cyan/dim} {percent}%, {elapsed}, {eta} left");
            self.0.set_length(total as u64);
        }
        self.0.set_position(done as u64);
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The style of a bar, with the characters of all our bars.
pub(crate) fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━─"));
    }
}
