//! Many items, one after another or several at a time, each from file to file: what `decode` does with thousands of
//! latents and `encode` with thousands of pictures. It knows nothing of either: what is done with an item is a
//! function, and its result a line for the log.

pub(crate) mod inputs;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;

pub(crate) use self::report::Report;
use crate::args::batch::BatchArgs;
use crate::output;

/// Exit code when some items could not be done; the others are written.
pub(crate) const SOME_FAILED: u8 = 3;
/// Exit code after Ctrl-C, as shells have it: 128 and the number of the signal.
pub(crate) const INTERRUPTED: u8 = 130;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The file to read.
    pub(crate) path: PathBuf,
    /// Which tensor of it, where there are several.
    pub(crate) tensor: Option<String>,
    /// The file to write.
    pub(crate) out: PathBuf,
}

impl Item {
    /// What is read, as the command line would name it.
    pub(crate) fn input(&self) -> String {
        match &self.tensor {
            Some(tensor) => format!("{}:{tensor}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }
}

/// Whether these arguments can only mean one file, which becomes one file.
pub(crate) fn is_one(arguments: &[String], out: &Path) -> bool {
    let is_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    inputs::is_one(arguments) && !is_folder
}

/// Tells of the only item that there was; `how` is for people, given the seconds that it took.
pub(crate) fn tell(item: &Item, made: &Made, time: Duration, json: bool, how: impl Fn(f64) -> String) {
    if json {
        let report = Report::new(1, true);
        report.done(item, made, time);
        report.finish();
        return;
    }
    if let Some(preview) = &made.preview {
        eprintln!("{preview}");
    }
    say!("{}: {}, {}", item.out.display(), made.what, how(time.as_secs_f64()));
}

/// What was made of an item.
pub(crate) struct Made {
    /// For people: `512 x 512 PNG, 310 KiB`.
    pub(crate) what: String,
    /// Bytes of the result.
    pub(crate) bytes: usize,
    /// The picture for a terminal, if that was asked for.
    pub(crate) preview: Option<String>,
}

/// Why there is nothing.
pub(crate) enum Failure {
    /// It lies with this item; the others may do better.
    Item(anyhow::Error),
    /// Nothing more can be done: the server is gone, or the disk is full.
    All(anyhow::Error),
}

impl Failure {
    /// Of an item that could not be worked on: whatever is wrong with the endpoint is wrong for the others too.
    pub(crate) fn of_work(error: anyhow::Error) -> Self {
        match error.downcast_ref::<client::Error>() {
            Some(cause) if cause.is_of_endpoint() => Self::All(error),
            _ => Self::Item(error),
        }
    }
}

/// How it ended when not everything is done. Its exit code is not that of other errors.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Incomplete {
    pub(crate) code: u8,
    message: String,
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) total: usize,
    pub(crate) done: usize,
    pub(crate) skipped: usize,
    pub(crate) failed: usize,
}

impl Tally {
    /// Items that nobody has begun, or that were given up in the middle.
    pub(crate) fn left(&self) -> usize {
        self.total - self.done - self.skipped - self.failed
    }
}

/// Does the items, `args.jobs` at a time, each as a whole by one thread, and makes the folders that they are written
/// to. With `args.resume` those whose file is there are left alone: files only ever come to be whole.
///
/// # Errors
/// A folder that cannot be made, [`Incomplete`] when some failed or somebody pressed Ctrl-C, what the item said when nothing more could be done.
pub(crate) fn run(
    items: &[Item],
    args: &BatchArgs,
    report: &Report,
    work: impl Fn(&Item) -> Result<Made, Failure> + Sync,
) -> anyhow::Result<()> {
    let BatchArgs { jobs, resume, .. } = *args;
    for item in items {
        let folder = item.out.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    output::sweep(items.iter().map(|item| item.out.as_path()));
    let stop = Arc::<AtomicBool>::default();
    stop_at_interrupt(stop.clone(), report.notes());
    let next = AtomicUsize::new(0);
    let end = std::sync::Mutex::new(None);
    let worker = || {
        while !stop.load(Ordering::Acquire) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if resume && item.out.is_file() {
                report.skipped(item);
                continue;
            }
            let start = std::time::Instant::now();
            match work(item) {
                Ok(made) => report.done(item, &made, start.elapsed()),
                Err(Failure::Item(error)) => report.failed(item, &error),
                Err(Failure::All(error)) => {
                    stop.store(true, Ordering::Release);
                    end.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(worker);
        }
    });
    let tally = report.finish();
    let end = end.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = end {
        let left = tally.left();
        let advice = if left > 1 {
            format!("{left} are not done; --resume goes on where this ended")
        } else {
            String::new()
        };
        return Err(if advice.is_empty() { error } else { error.context(advice) });
    }
    let incomplete = |code, message| Err(Incomplete { code, message }.into());
    match tally {
        tally if tally.left() > 0 => {
            incomplete(INTERRUPTED, format!("interrupted: {} are not done; --resume goes on", tally.left()))
        }
        Tally { failed: 0, .. } => Ok(()),
        Tally { failed, total, .. } => {
            incomplete(SOME_FAILED, format!("{failed} of {total} failed, see above"))
        }
    }
}

/// At the first Ctrl-C nothing new is begun; the second ends the program, which leaves no half-written file either.
fn stop_at_interrupt(stop: Arc<AtomicBool>, note: impl Fn(&str) + Send + 'static) {
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::Release);
                note("stopping when what is under way is done; once more to stop at once");
                let _ = tokio::signal::ctrl_c().await;
                std::process::exit(INTERRUPTED.into());
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn args(jobs: usize, resume: bool) -> BatchArgs {
        BatchArgs { jobs, resume, preview: false, json: false }
    }

    fn items(folder: &Path, count: usize) -> Vec<Item> {
        let item =
            |n| Item { path: format!("{n}.npy").into(), tensor: None, out: folder.join(format!("{n}.png")) };
        (0..count).map(item).collect()
    }

    fn made() -> Made {
        Made { what: "a picture".to_owned(), bytes: 1, preview: None }
    }

    fn code(result: anyhow::Result<()>) -> Option<u8> {
        result.err().map(|error| error.downcast_ref::<Incomplete>().map_or(1, |end| end.code))
    }

    #[test]
    fn each_item_is_done_once_and_failures_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let items = items(folder.path(), 100);
        for jobs in [1, 3, 200] {
            let seen = Mutex::new(Vec::new());
            let result = run(&items, &args(jobs, false), &Report::silent(100), |item| {
                seen.lock().unwrap().push(item.path.clone());
                if item.path.ends_with("13.npy") {
                    Err(Failure::Item(anyhow::anyhow!("no")))
                } else {
                    Ok(made())
                }
            });
            let mut seen = seen.into_inner().unwrap();
            seen.sort();
            let mut expected: Vec<_> = items.iter().map(|item| item.path.clone()).collect();
            expected.sort();
            assert_eq!(seen, expected);
            assert_eq!(code(result), Some(SOME_FAILED));
        }
    }

    #[test]
    fn what_is_there_is_left_alone_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let items = items(folder.path(), 10);
        std::fs::write(&items[4].out, "done").unwrap();
        for (resume, expected) in [(true, 9), (false, 10)] {
            let count = AtomicUsize::new(0);
            let result = run(&items, &args(2, resume), &Report::silent(10), |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(made())
            });
            assert_eq!((code(result), count.into_inner()), (None, expected));
        }
    }

    #[test]
    fn nothing_is_begun_when_nothing_can_be_done() {
        let folder = tempfile::tempdir().unwrap();
        let count = AtomicUsize::new(0);
        let result = run(&items(folder.path(), 50), &args(1, false), &Report::silent(50), |_| {
            match count.fetch_add(1, Ordering::Relaxed) {
                5 => Err(Failure::All(anyhow::anyhow!("the server is gone"))),
                _ => Ok(made()),
            }
        });
        let error = format!("{:#}", result.unwrap_err());
        assert_eq!(error, "45 are not done; --resume goes on where this ended: the server is gone");
        assert_eq!(count.into_inner(), 6);
    }
}
