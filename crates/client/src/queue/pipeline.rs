//! A bounded line of work: submitted without waiting for its end, a few items at a time, results in order or as they
//! come. It knows nothing of HTTP, so that its rules can be tested with a clock of their own.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::options::{Counters, Order, QueueOptions};
use crate::Error;

#[derive(Debug, Default)]
struct Counts {
    submitted: AtomicUsize,
    begun: AtomicUsize,
    succeeded: AtomicUsize,
    failed: AtomicUsize,
}

impl Counts {
    fn read(&self) -> Counters {
        // From the end of the line to its beginning: an item that moves on meanwhile is not counted twice.
        let succeeded = self.succeeded.load(Ordering::Acquire);
        let failed = self.failed.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        let submitted = self.submitted.load(Ordering::Acquire);
        let in_flight = begun - succeeded - failed;
        Counters { submitted, waiting: submitted - begun, in_flight, succeeded, failed }
    }
}

/// An item, or its result, and its place in the house.
type Placed<T> = (T, OwnedSemaphorePermit);

/// Where items go in.
pub(crate) struct Entrance<J> {
    jobs: mpsc::UnboundedSender<Placed<J>>,
    house: Arc<Semaphore>,
    counts: Arc<Counts>,
}

impl<J> Clone for Entrance<J> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), house: self.house.clone(), counts: self.counts.clone() }
    }
}

impl<J> Entrance<J> {
    /// Takes an item as soon as there is a place.
    pub(crate) async fn submit(&self, job: J) -> Result<(), Error> {
        let place = self.house.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        self.admit(job, place).map_err(|_| Error::Closed)
    }

    /// Takes an item if there is a place, else gives it back.
    pub(crate) fn try_submit(&self, job: J) -> Result<(), J> {
        match self.house.clone().try_acquire_owned() {
            Ok(place) => self.admit(job, place),
            Err(_) => Err(job),
        }
    }

    fn admit(&self, job: J, place: OwnedSemaphorePermit) -> Result<(), J> {
        self.counts.submitted.fetch_add(1, Ordering::AcqRel);
        self.jobs.send((job, place)).map_err(|lost| {
            self.counts.submitted.fetch_sub(1, Ordering::AcqRel);
            lost.0.0
        })
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counts.read()
    }
}

/// Where results come out. Dropping it cancels what is under way and what waits.
pub(crate) struct Exit<O> {
    results: mpsc::UnboundedReceiver<oneshot::Receiver<Placed<O>>>,
    house: Arc<Semaphore>,
    counts: Arc<Counts>,
    dispatcher: Option<JoinHandle<()>>,
}

impl<O> Exit<O> {
    /// The next result, `None` when the entrance is closed and everything has come out.
    pub(crate) async fn next(&mut self) -> Option<O> {
        if let Some(result) = self.results.recv().await
            && let Ok((result, _place)) = result.await
        {
            return Some(result);
        }
        // The dispatcher has ended. If it was by a panic, nobody shall think that all went well.
        if let Some(dispatcher) = self.dispatcher.take()
            && let Err(error) = dispatcher.await
            && error.is_panic()
        {
            resume_unwind(error.into_panic());
        }
        None
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counts.read()
    }
}

impl<O> Drop for Exit<O> {
    fn drop(&mut self) {
        self.house.close();
        if let Some(dispatcher) = &self.dispatcher {
            dispatcher.abort();
        }
    }
}

/// Starts a line on the current Tokio runtime. `work` gives a result and whether it is a good one.
pub(crate) fn start<J, O, Fut>(
    options: QueueOptions,
    work: impl Fn(J) -> Fut + Send + Sync + 'static,
) -> (Entrance<J>, Exit<O>)
where
    J: Send + 'static,
    O: Send + 'static,
    Fut: Future<Output = (O, bool)> + Send + 'static,
{
    // The semaphore bounds both channels.
    let (jobs, to_do) = mpsc::unbounded_channel();
    let (done, results) = mpsc::unbounded_channel();
    let house = Arc::new(Semaphore::new(options.capacity.min(Semaphore::MAX_PERMITS)));
    let counts = Arc::<Counts>::default();
    let dispatcher = Some(tokio::spawn(dispatch(options, to_do, done, counts.clone(), work)));
    let entrance = Entrance { jobs, house: house.clone(), counts: counts.clone() };
    (entrance, Exit { results, house, counts, dispatcher })
}

async fn dispatch<J, O, Fut>(
    options: QueueOptions,
    mut to_do: mpsc::UnboundedReceiver<Placed<J>>,
    done: mpsc::UnboundedSender<oneshot::Receiver<Placed<O>>>,
    counts: Arc<Counts>,
    work: impl Fn(J) -> Fut,
) where
    O: Send + 'static,
    Fut: Future<Output = (O, bool)> + Send + 'static,
{
    // Dropped with this function, and all its tasks with it.
    let mut running = JoinSet::new();
    loop {
        let next = tokio::select! {
            ended = running.join_next(), if !running.is_empty() => {
                unwind(ended);
                continue;
            }
            next = to_do.recv(), if running.len() < options.in_flight => next,
        };
        let Some((job, place)) = next else { break };
        counts.begun.fetch_add(1, Ordering::AcqRel);
        let (sender, receiver) = oneshot::channel();
        let (now, later) = match options.order {
            Order::Submitted => (Some(receiver), None),
            Order::Done => (None, Some(receiver)),
        };
        // Nobody listens only when this task is about to be cancelled.
        now.map(|receiver| done.send(receiver));
        let (work, done, counts) = (work(job), done.clone(), counts.clone());
        running.spawn(async move {
            let (result, good) = work.await;
            let count = if good { &counts.succeeded } else { &counts.failed };
            count.fetch_add(1, Ordering::AcqRel);
            let _ = sender.send((result, place));
            later.map(|receiver| done.send(receiver));
        });
    }
    while let Some(ended) = running.join_next().await {
        unwind(Some(ended));
    }
}

/// Passes a panic on.
fn unwind(ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = ended
        && error.is_panic()
    {
        resume_unwind(error.into_panic());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A line of jobs that take as many seconds as they say; 13 is the one that fails.
    fn sleeping(options: QueueOptions) -> (Entrance<u64>, Exit<u64>) {
        start(options, |seconds| async move {
            sleep(SECOND * seconds as u32).await;
            (seconds, seconds != 13)
        })
    }

    async fn all(mut exit: Exit<u64>) -> Vec<u64> {
        let mut results = Vec::new();
        while let Some(result) = exit.next().await {
            results.push(result);
        }
        results
    }

    #[tokio::test(start_paused = true)]
    async fn results_come_in_either_order() {
        for (order, expected) in [(Order::Submitted, [3, 1, 2]), (Order::Done, [1, 2, 3])] {
            let (entrance, exit) = sleeping(QueueOptions::new().order(order));
            for seconds in [3, 1, 2] {
                entrance.submit(seconds).await.unwrap();
            }
            drop(entrance);
            assert_eq!(all(exit).await, expected, "{order:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_a_time_and_no_more() {
        for (in_flight, seconds) in [(1, 8), (2, 4), (3, 3), (8, 1), (100, 1)] {
            let (entrance, exit) = sleeping(QueueOptions::new().in_flight(in_flight));
            let start = Instant::now();
            for _ in 0..8 {
                entrance.submit(1).await.unwrap();
            }
            sleep(SECOND / 2).await;
            let busy = in_flight.min(8);
            let counters = entrance.counters();
            assert_eq!((counters.submitted, counters.in_flight, counters.waiting), (8, busy, 8 - busy));
            drop(entrance);
            assert_eq!(all(exit).await, [1; 8]);
            assert_eq!(start.elapsed().as_secs(), seconds, "{in_flight} in flight");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn making_and_decoding_overlap() {
        // A producer that takes as long for an item as the work does: all of it together takes the longer of the two,
        // and the last item's work.
        for order in [Order::Submitted, Order::Done] {
            let (entrance, exit) = sleeping(QueueOptions::new().in_flight(1).order(order));
            let start = Instant::now();
            let producer = tokio::spawn(async move {
                for _ in 0..20 {
                    sleep(SECOND).await;
                    entrance.submit(1).await.unwrap();
                }
            });
            assert_eq!(all(exit).await.len(), 20);
            producer.await.unwrap();
            assert!(start.elapsed() <= 20 * SECOND * 11 / 10, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_house_makes_the_producer_wait() {
        let (entrance, mut exit) = sleeping(QueueOptions::new().in_flight(2).capacity(3));
        for _ in 0..3 {
            entrance.try_submit(1).unwrap();
        }
        assert_eq!(entrance.try_submit(7), Err(7));
        sleep(10 * SECOND).await;
        assert_eq!(entrance.try_submit(7), Err(7), "results that nobody takes keep their places");
        assert_eq!(exit.next().await, Some(1));
        entrance.try_submit(2).unwrap();
        let waiting = tokio::spawn(async move { entrance.submit(3).await });
        sleep(SECOND).await;
        assert!(!waiting.is_finished());
        assert_eq!(all(exit).await, [1, 1, 2, 3]);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_is_one_failure() {
        let (entrance, mut exit) = sleeping(QueueOptions::new());
        for seconds in [1, 13, 2] {
            entrance.submit(seconds).await.unwrap();
        }
        drop(entrance);
        for seconds in [1, 13, 2] {
            assert_eq!(exit.next().await, Some(seconds));
        }
        assert_eq!(exit.next().await, None);
        assert_eq!(exit.next().await, None);
        let expected = Counters { submitted: 3, succeeded: 2, failed: 1, ..Counters::default() };
        assert_eq!(exit.counters(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_cancels_the_rest() {
        let ended = Arc::new(Mutex::new(0));
        let seen = ended.clone();
        let (entrance, exit) = start(QueueOptions::new().capacity(4), move |()| {
            let ended = seen.clone();
            async move {
                sleep(SECOND).await;
                *ended.lock().unwrap() += 1;
                ((), true)
            }
        });
        for _ in 0..4 {
            entrance.submit(()).await.unwrap();
        }
        sleep(SECOND / 2).await;
        let stuck = tokio::spawn({
            let entrance = entrance.clone();
            async move { entrance.submit(()).await }
        });
        drop(exit);
        sleep(5 * SECOND).await;
        assert_eq!(*ended.lock().unwrap(), 0);
        assert_eq!(stuck.await.unwrap(), Err(Error::Closed));
        assert_eq!(entrance.submit(()).await, Err(Error::Closed));
    }

    #[tokio::test]
    #[should_panic(expected = "a bug")]
    async fn a_panic_is_not_the_end_of_the_list() {
        let (entrance, mut exit) =
            start::<_, (), _>(QueueOptions::new(), |()| async { panic!("a bug in the work") });
        entrance.submit(()).await.unwrap();
        drop(entrance);
        while exit.next().await.is_some() {}
    }
}
