//! What holds of the scheduler whatever happens: random days of several clients and workers, and the rules over what came of
//! them.
//!
//! Models have a constant speed here, so that what is foretold can be compared with what comes.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const CLIENTS: usize = 4;
/// Milliseconds for a unit of work, by model.
const SPEED: [u64; 2] = [1, 7];
/// Jobs that run together at most.
const TOGETHER: usize = 3;
/// Rounding, in seconds.
const EPSILON: f64 = 1e-6;

#[derive(Clone, Debug)]
enum Step {
    /// A request comes. Its client waits for so many milliseconds, if it does not wait for ever. It may run together with
    /// others of its model.
    Submit { client: usize, model: usize, work: u64, patience: Option<u64>, has_kind: bool },
    /// The client of a job that waits or runs leaves, and tries to once more.
    Leave(Index),
    /// A worker wants work.
    Start(usize),
    /// So many eighths of what is left of a running batch are done; the eighth ends it. The scheduler may be told how far it
    /// is. If nothing runs, so many seconds pass.
    Pass(Index, u32, bool),
}

fn step(workers: usize) -> impl Strategy<Value = Step> {
    // Small work, and some that is very much larger.
    let work = prop_oneof![4 => 1..20_u64, 1 => 500..2000_u64];
    let patience = prop_oneof![3 => Just(None), 1 => (1..3000_u64).prop_map(Some)];
    prop_oneof![
        8 => (0..CLIENTS, 0..SPEED.len(), work, patience, any::<bool>()).prop_map(
            |(client, model, work, patience, has_kind)| Step::Submit { client, model, work, patience, has_kind }
        ),
        2 => any::<Index>().prop_map(Step::Leave),
        6 => (0..workers).prop_map(Step::Start),
        3 => (any::<Index>(), 1..8_u32, any::<bool>()).prop_map(|(who, eighths, told)| Step::Pass(who, eighths, told)),
        4 => any::<Index>().prop_map(|who| Step::Pass(who, 8, true)),
    ]
}

/// How many may wait and how many workers there are, and what happens.
type Day = ([usize; 2], Vec<Step>);

fn day() -> impl Strategy<Value = Day> {
    (0..9_usize, 1..4_usize).prop_flat_map(|(capacity, workers)| {
        (Just([capacity, workers]), prop::collection::vec(step(workers), 1..150))
    })
}

#[derive(Clone, Debug)]
struct Job {
    client: usize,
    model: usize,
    takes: Duration,
    since: Instant,
    deadline: Option<Instant>,
    id: Option<JobId>,
}

impl Job {
    fn seconds(&self) -> f64 {
        self.takes.as_secs_f64()
    }
}

/// What happened to a job, by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Admitted(usize),
    /// Its client left, or had waited long enough.
    Left(usize),
    /// It had to make room.
    Displaced(usize),
    Started(usize),
}

/// The order of the jobs as the rules say it, in the simplest way: every job with its tag in one list.
#[derive(Default)]
struct Order {
    waiting: Vec<Tagged>,
    clock: f64,
    /// Up to when each client has been served.
    served: [f64; CLIENTS],
}

struct Tagged {
    job: usize,
    client: usize,
    seconds: f64,
    kind: Option<usize>,
    tag: f64,
}

impl Order {
    fn submit(&mut self, job: usize, client: usize, seconds: f64, kind: Option<usize>) {
        let own = self.waiting.iter().filter(|other| other.client == client).map(|other| other.tag);
        let tag = own.fold(self.clock.max(self.served[client]), f64::max) + seconds;
        self.waiting.push(Tagged { job, client, seconds, kind, tag });
    }

    fn take(&mut self, job: usize) -> Tagged {
        let index = self.waiting.iter().position(|other| other.job == job).unwrap();
        let taken = self.waiting.remove(index);
        self.served[taken.client] = taken.tag;
        taken
    }

    /// The jobs that are to be started.
    fn start(&mut self) -> Vec<usize> {
        let first = self.waiting.iter().min_by(|one, other| one.tag.total_cmp(&other.tag));
        let Some(first) = first.map(|first| first.job) else { return Vec::new() };
        let Tagged { job, kind, tag, mut seconds, .. } = self.take(first);
        self.clock = tag;
        let mut batch = vec![job];
        while kind.is_some() && batch.len() < TOGETHER {
            // Of each client the first alone.
            let heads = self.waiting.iter().enumerate().filter(|(index, head)| {
                self.waiting.iter().take(*index).all(|other| other.client != head.client)
            });
            let alike = heads.map(|(_, head)| head).filter(|head| head.kind == kind);
            let next = alike.min_by(|one, other| one.tag.total_cmp(&other.tag));
            let Some(next) =
                next.filter(|next| next.tag <= (self.clock + seconds) * (1.0 + f64::EPSILON.sqrt()))
            else {
                break;
            };
            let Tagged { job, seconds: more, .. } = self.take(next.job);
            seconds += more;
            batch.push(job);
        }
        batch
    }

    fn leave(&mut self, job: usize) {
        let Some(index) = self.waiting.iter().position(|other| other.job == job) else { return };
        let gone = self.waiting.remove(index);
        let (before, after) = self.waiting.split_at_mut(index);
        let own = before.iter().filter(|other| other.client == gone.client).map(|other| other.tag);
        let mut last = own.fold(self.clock.max(self.served[gone.client]), f64::max);
        for other in after.iter_mut().filter(|other| other.client == gone.client) {
            other.tag = other.tag.min(last + other.seconds);
            last = last.max(other.tag);
        }
    }
}

/// What a worker does.
#[derive(Clone)]
struct Batch {
    jobs: Vec<usize>,
    since: Instant,
    takes: Duration,
    /// Whether the scheduler knows how long it takes.
    is_known: bool,
}

impl Batch {
    fn end(&self) -> Instant {
        self.since + self.takes
    }
}

/// The scheduler, and beside it the simplest model of what must be in it.
struct World {
    queue: Scheduler<usize>,
    order: Order,
    capacity: usize,
    now: Instant,
    jobs: Vec<Job>,
    waiting: Vec<usize>,
    running: Vec<Option<Batch>>,
    /// Models that have finished something.
    known: [bool; SPEED.len()],
    history: Vec<Event>,
    /// The longest batch of several, in seconds.
    longest_batch: f64,
    batches: usize,
    /// What those without a slot were told, and what would have been true, in seconds.
    told: Vec<(Duration, f64)>,
}

impl World {
    fn new([capacity, workers]: [usize; 2]) -> Self {
        let known = [false; SPEED.len()];
        let queue = Scheduler::new(Some(capacity), SPEED.len(), workers);
        let (jobs, waiting, history, told) = Default::default();
        let (order, running, now) = (Order::default(), vec![None; workers], Instant::now());
        let (longest_batch, batches) = (0.0, 0);
        Self {
            queue,
            order,
            capacity,
            now,
            jobs,
            waiting,
            running,
            known,
            history,
            longest_batch,
            batches,
            told,
        }
    }

    /// A world in which every model has shown how fast it is.
    fn warm(size: [usize; 2]) -> Self {
        let mut world = Self::new(size);
        for model in 0..SPEED.len() {
            world.step(&Step::Submit { client: 0, model, work: 10, patience: None, has_kind: false });
            world.start(0);
            world.finish_all();
        }
        world.history.clear();
        world
    }

    fn client(number: usize) -> Client {
        Client::Key(number as u64)
    }

    fn held(&self, client: usize) -> usize {
        self.waiting.iter().filter(|&&job| self.jobs[job].client == client).count()
    }

    fn free_workers(&self) -> usize {
        self.running.iter().filter(|batch| batch.is_none()).count()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit { client, model, work, patience, has_kind } => {
                let deadline = patience.map(|patience| self.now + Duration::from_millis(patience));
                let takes = Duration::from_millis(work * SPEED[model]);
                self.submit(
                    Job { client, model, takes, since: self.now, deadline, id: None },
                    work,
                    has_kind,
                );
            }
            Step::Leave(which) => {
                let running = self.running.iter().flatten().flat_map(|batch| batch.jobs.iter());
                let there: Vec<_> = self.waiting.iter().chain(running).copied().collect();
                if !there.is_empty() {
                    self.leave(*which.get(&there));
                }
            }
            Step::Start(worker) => self.start(worker),
            Step::Pass(who, eighths, told) => self.pass(who, eighths, told),
        }
        assert_eq!(self.queue.waiting(), self.waiting.len());
        self.queue.lines.check();
        let is_idle = self.waiting.is_empty() && self.free_workers() == self.running.len();
        assert_eq!(self.queue.is_idle(), is_idle);
    }

    fn submit(&mut self, job: Job, work: u64, has_kind: bool) {
        let number = self.jobs.len();
        let options = Options::Decode(DecodeOptions::default());
        let kind = has_kind.then(|| Arc::new(Kind { model: job.model, shape: Vec::new(), options }));
        let cost = Cost { model: job.model, work, frames: 1, kind, items: 1, together: TOGETHER };
        let client = Self::client(job.client);
        let slots = self.capacity.max(self.free_workers());
        let has_slot = self.waiting.len() < slots;
        let checked = self.queue.check(client, self.now);
        let admitted = self.queue.admit(client, cost, number, self.now);
        assert_eq!(checked.is_ok(), admitted.is_ok(), "what it says before, it does");
        match admitted {
            Err(full) => {
                assert!(!has_slot, "it sent a job away though there was a slot");
                self.hear(full);
            }
            Ok(Admitted { id, displaced }) => {
                assert_eq!(displaced.is_none(), has_slot, "one makes room just when there is none");
                if let Some((other, full)) = displaced {
                    let greedy = self.jobs[other].client;
                    assert!((0..CLIENTS).all(|client| self.held(client) <= self.held(greedy)));
                    assert!(self.held(greedy) > self.held(job.client) + 1, "they change roles");
                    let newest =
                        self.waiting.iter().rev().find(|&&waiting| self.jobs[waiting].client == greedy);
                    assert_eq!(newest, Some(&other));
                    self.waiting.retain(|&waiting| waiting != other);
                    self.order.leave(other);
                    self.history.push(Event::Displaced(other));
                    self.hear(full);
                }
                let pace = self.queue.pace.of(job.model).unwrap_or(FIRST_GUESS);
                self.order.submit(number, job.client, pace * work as f64, has_kind.then_some(job.model));
                self.jobs.push(Job { id: Some(id), ..job });
                self.waiting.push(number);
                self.history.push(Event::Admitted(number));
                assert!(self.waiting.len() <= slots, "more wait than there are slots");
            }
        }
    }

    /// Somebody is told when to come back.
    fn hear(&mut self, full: Full) {
        if self.free_workers() > 0 {
            assert_eq!(full.retry_after, NO_IDEA, "a worker is free, so it starts any moment");
        } else if self.running.iter().flatten().all(|batch| batch.is_known) {
            let left = self.running.iter().flatten().map(|batch| batch.end() - self.now).min();
            self.told.push((full.retry_after, left.unwrap().as_secs_f64()));
        }
    }

    fn leave(&mut self, job: usize) {
        let did_wait = self.waiting.contains(&job);
        let id = self.jobs[job].id.unwrap();
        assert_eq!(self.queue.abandon(id), did_wait.then_some(job));
        assert_eq!(self.queue.abandon(id), None, "it is gone");
        if did_wait {
            self.waiting.retain(|&waiting| waiting != job);
            self.order.leave(job);
            self.history.push(Event::Left(job));
            return;
        }
        // A batch ends early when all its clients have left.
        for worker in 0..self.running.len() {
            let Some(batch) = &mut self.running[worker] else { continue };
            batch.jobs.retain(|&running| running != job);
            if batch.jobs.is_empty() {
                self.running[worker] = None;
                self.queue.finish(worker, false, self.now);
            }
        }
    }

    fn start(&mut self, worker: usize) {
        let started = self.queue.start(worker, self.now);
        if started.is_empty() {
            assert!(self.running[worker].is_some() || self.waiting.is_empty(), "it left work lying");
            return;
        }
        assert!(self.running[worker].is_none(), "a worker runs two batches");
        let jobs: Vec<_> = started.iter().map(|started| started.job).collect();
        assert_eq!(self.order.start(), jobs, "others were to be started");
        assert!(jobs.len() <= TOGETHER);
        let model = self.jobs[jobs[0]].model;
        let mut takes = Duration::ZERO;
        for Started { job, waited } in started {
            assert_eq!(waited, self.now - self.jobs[job].since);
            assert_eq!(self.jobs[job].model, model);
            assert!(self.waiting.contains(&job), "it ran what was not waiting");
            assert!(self.jobs[job].deadline.is_none_or(|deadline| self.now < deadline), "it came too late");
            self.waiting.retain(|&waiting| waiting != job);
            self.history.push(Event::Started(job));
            takes += self.jobs[job].takes;
        }
        if jobs.len() > 1 {
            self.batches += 1;
            self.longest_batch = self.longest_batch.max(takes.as_secs_f64());
        }
        self.running[worker] = Some(Batch { jobs, since: self.now, takes, is_known: self.known[model] });
    }

    fn pass(&mut self, who: Index, eighths: u32, told: bool) {
        let busy: Vec<_> = (0..self.running.len()).filter(|&worker| self.running[worker].is_some()).collect();
        if busy.is_empty() {
            self.now += Duration::from_secs(eighths.into());
            return self.expire();
        }
        let worker = *who.get(&busy);
        let end = self.running[worker].as_ref().unwrap().end();
        self.advance(self.now + (end - self.now) * eighths / 8);
        if let (Some(batch), true) = (&mut self.running[worker], told) {
            let done = (self.now - batch.since).as_nanos() as usize;
            self.queue.progress(worker, done, batch.takes.as_nanos() as usize, self.now);
            batch.is_known |= done > 0;
        }
        self.expire();
    }

    /// Time passes, and what ends meanwhile ends at its time.
    fn advance(&mut self, until: Instant) {
        loop {
            let ends = self.running.iter().enumerate();
            let ends = ends.filter_map(|(worker, batch)| Some((batch.as_ref()?.end(), worker)));
            let Some((end, worker)) = ends.min().filter(|&(end, _)| end <= until) else { break };
            self.now = end;
            let batch = self.running[worker].take().unwrap();
            self.known[self.jobs[batch.jobs[0]].model] = true;
            self.queue.finish(worker, true, end);
        }
        self.now = until;
    }

    fn finish_all(&mut self) {
        if let Some(last) = self.running.iter().flatten().map(Batch::end).max() {
            self.advance(last);
        }
        self.expire();
    }

    /// Clients whose time is over leave.
    fn expire(&mut self) {
        let running = self.running.iter().flatten().flat_map(|batch| batch.jobs.iter());
        let late = |job: &usize| self.jobs[*job].deadline.is_some_and(|deadline| deadline <= self.now);
        let late: Vec<_> = self.waiting.iter().chain(running).copied().filter(late).collect();
        late.into_iter().for_each(|job| self.leave(job));
    }

    /// Everything happens, and then all that waits is done.
    fn live(mut self, steps: &[Step]) -> Self {
        steps.iter().for_each(|step| self.step(step));
        while !self.queue.is_idle() {
            (0..self.running.len()).for_each(|worker| self.step(&Step::Start(worker)));
            self.finish_all();
        }
        assert!(self.waiting.is_empty());
        self
    }

    fn started(&self) -> impl Iterator<Item = usize> {
        self.history.iter().filter_map(|event| match event {
            Event::Started(job) => Some(*job),
            _ => None,
        })
    }

    /// The longest job of a client, in seconds.
    fn longest(&self, client: usize) -> f64 {
        self.jobs.iter().filter(|job| job.client == client).map(Job::seconds).fold(0.0, f64::max)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Besides what [`World`] itself asserts at each step: never more than the bound, no slot left empty, nothing run that
    /// has left or is late, no batch of two models or larger than it may be.
    #[test]
    fn every_job_that_got_a_slot_has_one_end((size, steps) in day()) {
        let world = World::new(size).live(&steps);
        for job in 0..world.jobs.len() {
            let ends = [Event::Left(job), Event::Displaced(job), Event::Started(job)];
            let count = world.history.iter().filter(|event| ends.contains(event)).count();
            prop_assert_eq!(count, 1, "job {} of {:?}", job, world.history);
        }
    }

    #[test]
    fn jobs_of_one_client_start_in_the_order_in_which_they_came((size, steps) in day()) {
        let world = World::new(size).live(&steps);
        for client in 0..CLIENTS {
            let own: Vec<_> = world.started().filter(|&job| world.jobs[job].client == client).collect();
            prop_assert!(own.is_sorted(), "{:?}", own);
        }
    }

    /// Whatever others send, withdraw and send again: until a job begins, each of them gets at most as much as its client
    /// had waiting when it came, itself included, and one job more; and what each of the two can be ahead by a batch.
    #[test]
    fn no_job_is_overtaken_by_more_than_its_share((size, steps) in day()) {
        let world = World::warm(size).live(&steps);
        let mut waiting: Vec<(usize, f64, [f64; CLIENTS])> = Vec::new();
        for event in &world.history {
            match *event {
                Event::Admitted(job) => {
                    let Job { client, .. } = world.jobs[job];
                    let own = |other: &&(usize, f64, _)| world.jobs[other.0].client == client;
                    let before: f64 = waiting.iter().filter(own).map(|other| world.jobs[other.0].seconds()).sum();
                    waiting.push((job, before + world.jobs[job].seconds(), [0.0; CLIENTS]));
                }
                Event::Left(job) | Event::Displaced(job) => waiting.retain(|other| other.0 != job),
                Event::Started(job) => {
                    let index = waiting.iter().position(|other| other.0 == job).unwrap();
                    let (_, share, others) = waiting.remove(index);
                    let Job { client, .. } = world.jobs[job];
                    for other in (0..CLIENTS).filter(|&other| other != client) {
                        let bound = share + world.longest(other) + 2.0 * world.longest_batch + EPSILON;
                        prop_assert!(
                            others[other] <= bound,
                            "client {} got {} s before job {}, whose share is {} s: {:?}",
                            other, others[other], job, share, world.history
                        );
                    }
                    waiting.iter_mut().for_each(|(.., got)| got[client] += world.jobs[job].seconds());
                }
            }
        }
    }

    /// While two clients have work waiting all the time, neither gets more than the other but for one job of each
    /// (Golestani 1994, theorem 1), and what each can be ahead by a batch.
    #[test]
    fn clients_share_equally((size, steps) in day()) {
        let world = World::warm(size).live(&steps);
        let mut held = [0_usize; CLIENTS];
        let mut got = [[0.0_f64; CLIENTS]; CLIENTS];
        for event in &world.history {
            let (job, started) = match *event {
                Event::Admitted(job) => {
                    held[world.jobs[job].client] += 1;
                    continue;
                }
                Event::Left(job) | Event::Displaced(job) => (job, false),
                Event::Started(job) => (job, true),
            };
            let Job { client, .. } = world.jobs[job];
            held[client] -= 1;
            for other in (0..CLIENTS).filter(|&other| other != client) {
                if !started || held[client] == 0 || held[other] == 0 {
                    (got[client][other], got[other][client]) = (0.0, 0.0);
                    continue;
                }
                got[client][other] += world.jobs[job].seconds();
                let more = got[client][other] - got[other][client];
                let bound =
                    world.longest(client) + world.longest(other) + 2.0 * world.longest_batch + EPSILON;
                prop_assert!(
                    more.abs() <= bound,
                    "client {} got {} s more than client {}: {:?}", client, more, other, world.history
                );
            }
        }
    }

    /// As models have a constant speed here, it is true to the microsecond; so of two who ask one after the other, nobody
    /// is told a later moment than the one before, unless another job has begun.
    #[test]
    fn who_comes_back_when_told_does_not_come_early_or_late((size, steps) in day()) {
        for world in [World::new(size), World::warm(size)] {
            for (told, truth) in world.live(&steps).told {
                prop_assert!((told.as_secs_f64() - truth).abs() < EPSILON, "{:?}, but it is {} s", told, truth);
            }
        }
    }
}

/// The days above are worth something only if what the rules are about happens in them.
#[test]
fn days_are_eventful() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut started, mut left, mut displaced, mut told, mut batches) = (0, 0, 0, 0, 0);
    for _ in 0..200 {
        let (size, steps) = day().new_tree(&mut runner).unwrap().current();
        let world = World::warm(size).live(&steps);
        for event in &world.history {
            match event {
                Event::Admitted(_) => {}
                Event::Left(_) => left += 1,
                Event::Displaced(_) => displaced += 1,
                Event::Started(_) => started += 1,
            }
        }
        told += world.told.len();
        batches += world.batches;
    }
    assert!(
        started > 1000 && left > 100 && displaced > 100 && told > 100 && batches > 100,
        "{started} {left} {displaced} {told} {batches}"
    );
}
