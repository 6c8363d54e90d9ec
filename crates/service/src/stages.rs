//! The threads before and after the models: they read requests and write answers while the models work.
//!
//! Each stage has a fixed number of threads, so that what they do at a time is bounded. What waits for them is bounded
//! by the memory that it holds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use media::IsWanted;
use tokio::sync::oneshot;

use crate::failure::{Failure, StartError};

/// Threads of a stage at most: each task takes memory, and most of the processor is the models'.
const MOST: usize = 16;

type Task = Box<dyn FnOnce() + Send>;

/// A pool of threads for one kind of work.
pub(crate) struct Stage(mpsc::Sender<Task>);

impl Stage {
    /// Starts as many threads as the process may use, up to [`MOST`] and two at least, so that one long task does not hold up all.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(crate) fn new(name: &str) -> Result<Self, StartError> {
        let (sender, tasks) = mpsc::channel::<Task>();
        let tasks = Arc::new(Mutex::new(tasks));
        for number in 0..std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST) {
            let tasks = Arc::clone(&tasks);
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    // It ends with the sender.
                    while let Ok(task) = next(&tasks) {
                        // A task reports its own panic.
                        let _ = guarded(task);
                    }
                })
                .map_err(|error| StartError::Worker(format!("it cannot be started: {error}")))?;
        }
        Ok(Self(sender))
    }

    /// Has `task` done, after those that came before.
    pub(crate) fn push(&self, task: impl FnOnce() + Send + 'static) {
        // The threads last as long as the sender.
        let _ = self.0.send(Box::new(task));
    }

    /// Has `work` done and waits for it. Dropping the future before its turn costs no work, and `work` can ask whether that
    /// has happened.
    ///
    /// # Errors
    /// Those of the work, or that it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&IsWanted<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.push(move || {
            let is_wanted = || !sender.is_closed();
            if is_wanted() {
                let result = guarded(|| work(&is_wanted)).unwrap_or_else(|panic| Err(crashed(&panic)));
                let _ = sender.send(result);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(Failure::lost()))
    }

    /// Has `work` done and waits for it on this thread, which must not be one of a stage.
    ///
    /// # Errors
    /// Those of the work, or that it panicked.
    pub(crate) fn run_now<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = mpsc::channel();
        self.push(move || {
            let result = guarded(work).unwrap_or_else(|panic| Err(crashed(&panic)));
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or_else(|_| Err(Failure::lost()))
    }
}

fn next(tasks: &Mutex<mpsc::Receiver<Task>>) -> Result<Task, mpsc::RecvError> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

/// A panic outside of the model.
pub(crate) fn crashed(panic: &str) -> Failure {
    Failure::internal("the server crashed on this request, which is a bug").because(panic)
}

/// Runs `work`; a panic comes back as its message.
pub(crate) fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_request_and_no_thread() {
        let stage = Stage::new("test").unwrap();
        for _ in 0..20 {
            let failure = stage.run::<()>(|_| panic!("ouch")).await.unwrap_err();
            assert!(failure.note.unwrap().reason.contains("ouch"));
        }
        assert_eq!(stage.run(|_| Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn who_has_left_before_its_turn_costs_no_work() {
        let stage = Stage::new("test").unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        // All threads are busy.
        for _ in 0..64 {
            let wait = Arc::clone(&wait);
            stage.push(move || {
                let _ = wait.lock().unwrap().recv();
            });
        }
        let (ran, has_run) = mpsc::channel();
        let mut left = Box::pin(stage.run(move |_| {
            ran.send(()).unwrap();
            Ok(())
        }));
        let now =
            std::future::poll_fn(|cx| std::task::Poll::Ready(left.as_mut().poll(cx).is_pending())).await;
        assert!(now);
        drop(left);
        drop(go);
        assert_eq!(stage.run(|_| Ok(7)).await, Ok(7));
        assert!(has_run.recv().is_err());
    }
}
