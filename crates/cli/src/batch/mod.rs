//! Many items, one after another or several at a time, each from file to file: what `decode` does with thousands of
//! latents and `encode` with thousands of pictures. It knows nothing of either: what is done with an item is a
//! function, and its result a line for the log.

pub(crate) mod inputs;
mod report;

use std::any::Any;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

pub(crate) use self::report::Report;
use crate::args::batch::BatchArgs;
use crate::output;
use crate::terminal::{self, plain, shown};

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
    /// Which picture of the tensor's batch, where there are several.
    pub(crate) index: Option<usize>,
    /// The file to write.
    pub(crate) out: PathBuf,
    /// Why it is not even begun, where that is known before.
    pub(crate) verdict: Option<Verdict>,
}

/// What is known of an item before it is begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is nothing in it to work on, and that is no fault.
    Nothing(String),
    /// It cannot be done.
    Fails(String),
}

impl Item {
    /// A file that becomes a file.
    pub(crate) fn new(path: PathBuf, tensor: Option<String>, out: PathBuf) -> Self {
        Self { path, tensor, index: None, out, verdict: None }
    }

    /// What is read, as the command line would name it.
    pub(crate) fn input(&self) -> String {
        match &self.tensor {
            Some(tensor) => format!("{}:{tensor}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// The same for a terminal, and which picture of the batch.
    pub(crate) fn label(&self) -> String {
        let input = self.input();
        match self.index {
            Some(index) => format!("{}, picture {index} of its batch", plain(&input)),
            None => plain(&input).into_owned(),
        }
    }
}

/// Whether these arguments can only mean one file, which becomes one file.
pub(crate) fn is_one(arguments: &[String], out: &Path) -> bool {
    let is_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    inputs::is_one(arguments) && !is_folder
}

/// Checks that there is anything to do.
///
/// # Errors
/// When nothing holds `what` is looked for; it says of one what it holds instead.
pub(crate) fn check(items: &[Item], what: &str) -> anyhow::Result<()> {
    let mut none = None;
    for item in items {
        match &item.verdict {
            Some(Verdict::Nothing(why)) => none = none.or(Some((item, why))),
            _ => return Ok(()),
        }
    }
    match none {
        Some((item, why)) if items.len() == 1 => anyhow::bail!("{}: {why}", item.input()),
        Some((item, why)) => {
            anyhow::bail!("none of {} files holds {what}; {}: {why}", items.len(), item.input())
        }
        None => Ok(()),
    }
}

/// Tells of the only item that there was; `how` is for people, given the seconds that it took.
pub(crate) fn tell(item: &Item, made: &Made, time: Duration, json: bool, how: impl Fn(f64) -> String) {
    if json {
        report::tell_one(item, made, time);
        return;
    }
    if let Some(preview) = &made.preview {
        terminal::picture(preview);
    }
    say!("{}: {}, {}", shown(&item.out), made.what, how(time.as_secs_f64()));
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
#[derive(Debug)]
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

    /// Of a result that could not be written: a disk is full for the others too, a name is too long for this one only.
    pub(crate) fn of_writing(error: anyhow::Error) -> Self {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        match kind {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem) => {
                Self::All(error)
            }
            _ => Self::Item(error),
        }
    }

    /// Of work that has panicked, which is a mistake of ours, and no reason to lose the other items.
    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why");
        Self::Item(anyhow!("internal error, please report it: {said}"))
    }
}

/// An error of the only item that there is, with the item's name where the fault is its own.
pub(crate) fn named(error: anyhow::Error, what: &str) -> anyhow::Error {
    match Failure::of_work(error) {
        Failure::Item(error) => error.context(what.to_owned()),
        Failure::All(error) => error,
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
    /// Written by an earlier run.
    pub(crate) there: usize,
    /// Those that hold nothing to work on.
    pub(crate) nothing: usize,
    pub(crate) failed: usize,
}

impl Tally {
    /// Items that nobody has begun, or that were given up in the middle.
    pub(crate) fn left(&self) -> usize {
        self.total - self.done - self.there - self.nothing - self.failed
    }
}

/// Does the items, `args.jobs` at a time, each as a whole by one thread, and writes them below `folder`, which is made
/// if it is not there. With `args.resume` those whose file is there are left alone: files only ever come to be whole.
///
/// # Errors
/// A folder that cannot be made, [`Incomplete`] when some failed or somebody pressed Ctrl-C, what the item said when
/// nothing more could be done.
pub(crate) fn run(
    items: &[Item],
    folder: &Path,
    args: &BatchArgs,
    report: &Report,
    work: impl Fn(&Item) -> Result<Made, Failure> + Sync,
) -> anyhow::Result<()> {
    let BatchArgs { jobs, resume, .. } = *args;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    output::sweep(items.iter().map(|item| item.out.as_path()));
    report.expect(items.len());
    let stop = Arc::<AtomicBool>::default();
    stop_at_interrupt(stop.clone(), report.notes());
    let next = AtomicUsize::new(0);
    let end = std::sync::Mutex::new(None);
    let ends_with = |error: anyhow::Error| {
        stop.store(true, Ordering::Release);
        end.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
    };
    let worker = || {
        while !stop.load(Ordering::Acquire) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match begin(item, resume) {
                Some(Begun::There) => report.there(item),
                Some(Begun::Verdict(Verdict::Nothing(why))) => report.nothing(item, &why),
                Some(Begun::Verdict(Verdict::Fails(why))) => report.failed(item, &anyhow!(why)),
                None => {
                    let start = Instant::now();
                    let made = catch_unwind(AssertUnwindSafe(|| work(item)));
                    match made.unwrap_or_else(|panic| Err(Failure::of_panic(&*panic))) {
                        Ok(made) => report.done(item, &made, start.elapsed()),
                        Err(Failure::Item(error)) => report.failed(item, &error),
                        Err(Failure::All(error)) => ends_with(error),
                    }
                }
            }
            // A list of what is done that has gaps is of no use to whoever reads it.
            if let Err(error) = terminal::check() {
                ends_with(error);
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

/// What an item is found to be before it is worked on.
enum Begun {
    /// An earlier run has written it.
    There,
    Verdict(Verdict),
}

/// Looks whether an item is to be worked on, and makes the folder for it: `None` when all is ready.
fn begin(item: &Item, resume: bool) -> Option<Begun> {
    if let Some(verdict) = &item.verdict {
        return Some(Begun::Verdict(verdict.clone()));
    }
    if resume && item.out.is_file() {
        return Some(Begun::There);
    }
    // What is in the way is better known before the work than after it.
    let ready = || {
        let folder = item.out.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        match item.out.metadata() {
            Ok(found) => ensure!(!found.is_dir(), "cannot write {}: it is a folder", item.out.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", item.out.display())),
        }
        anyhow::Ok(())
    };
    let error = ready().err()?;
    Some(Begun::Verdict(Verdict::Fails(crate::sentence(&error))))
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
        let item = |n| Item::new(format!("{n}.npy").into(), None, folder.join(format!("{n}.png")));
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
            let result = run(&items, folder.path(), &args(jobs, false), &Report::silent(), |item| {
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
            let result = run(&items, folder.path(), &args(2, resume), &Report::silent(), |_| {
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
        let items = items(folder.path(), 50);
        let result = run(&items, folder.path(), &args(1, false), &Report::silent(), |_| {
            match count.fetch_add(1, Ordering::Relaxed) {
                5 => Err(Failure::All(anyhow::anyhow!("the server is gone"))),
                _ => Ok(made()),
            }
        });
        let error = format!("{:#}", result.unwrap_err());
        assert_eq!(error, "45 are not done; --resume goes on where this ended: the server is gone");
        assert_eq!(count.into_inner(), 6);
    }

    /// A panic, a name that no file can have, an output that is a folder, a folder that cannot be made: each is the
    /// failure of its item, known before the work where it can be, and a second run goes past it.
    #[test]
    fn one_bad_item_is_its_own_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut items = items(folder.path(), 8);
        items[1].out = folder.path().join(format!("{}.png", "x".repeat(300)));
        std::fs::create_dir(&items[2].out).unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        items[3].out = folder.path().join("file/3.png");
        items[4].verdict = Some(Verdict::Nothing("it holds no latents".to_owned()));
        for resume in [false, true] {
            let worked = Mutex::new(Vec::new());
            let report = Report::silent();
            let result = run(&items, folder.path(), &args(1, resume), &report, |item| {
                let number = items.iter().position(|one| one == item).unwrap();
                worked.lock().unwrap().push(number);
                match number {
                    5 => panic!("a codec's mistake"),
                    6 => Err(Failure::of_writing(
                        anyhow::Error::new(io::Error::from(ErrorKind::InvalidFilename))
                            .context("cannot write it"),
                    )),
                    _ => {
                        std::fs::write(&item.out, "done").unwrap();
                        Ok(made())
                    }
                }
            });
            assert_eq!(code(result), Some(SOME_FAILED));
            assert_eq!(worked.into_inner().unwrap(), if resume { vec![5, 6] } else { vec![0, 5, 6, 7] });
        }
        let full = anyhow::Error::new(io::Error::from(ErrorKind::StorageFull)).context("cannot write it");
        assert!(matches!(Failure::of_writing(full), Failure::All(_)), "a full disk is full for all");
    }
}
