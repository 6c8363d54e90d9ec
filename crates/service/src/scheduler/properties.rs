//! What holds of the queue whatever happens: random days of several clients, and the rules over what came of them.
//!
//! Models have a constant speed here, so that what the queue foretells can be compared with what comes.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const CLIENTS: usize = 4;
/// Milliseconds for a unit of work, by model.
const SPEED: [u64; 2] = [1, 7];
/// Rounding, in seconds.
const EPSILON: f64 = 1e-6;

#[derive(Clone, Debug)]
enum Step {
    /// A request comes. Its client waits for so many milliseconds, if it does not wait for ever.
    Submit { client: usize, model: usize, work: u64, patience: Option<u64> },
    /// The client of a job that waits or runs leaves, and tries to once more.
    Leave(Index),
    /// The executor asks for work.
    Start,
    /// So many eighths of what is left of the running job are done; the eighth ends it. The queue may be told how far it is.
    /// If nothing runs, so many seconds pass.
    Pass(u32, bool),
}

fn step() -> impl Strategy<Value = Step> {
    // Small work, and some that is very much larger.
    let work = prop_oneof![4 => 1..20_u64, 1 => 500..2000_u64];
    let patience = prop_oneof![3 => Just(None), 1 => (1..3000_u64).prop_map(Some)];
    prop_oneof![
        8 => (0..CLIENTS, 0..SPEED.len(), work, patience)
            .prop_map(|(client, model, work, patience)| Step::Submit { client, model, work, patience }),
        2 => any::<Index>().prop_map(Step::Leave),
        6 => Just(Step::Start),
        3 => (1..8_u32, any::<bool>()).prop_map(|(eighths, told)| Step::Pass(eighths, told)),
        4 => Just(Step::Pass(8, true)),
    ]
}

/// A capacity, and what happens.
fn day() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (0..9_usize, prop::collection::vec(step(), 1..150))
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
}

struct Tagged {
    job: usize,
    client: usize,
    seconds: f64,
    tag: f64,
}

impl Order {
    fn submit(&mut self, job: usize, client: usize, seconds: f64) {
        let own = self.waiting.iter().filter(|other| other.client == client).map(|other| other.tag);
        let tag = own.fold(self.clock, f64::max) + seconds;
        self.waiting.push(Tagged { job, client, seconds, tag });
    }

    /// The job that is to be started.
    fn start(&mut self) -> Option<usize> {
        let next = self.waiting.iter().min_by(|one, other| one.tag.total_cmp(&other.tag))?;
        let job = next.job;
        self.clock = next.tag;
        self.waiting.retain(|other| other.job != job);
        Some(job)
    }

    fn leave(&mut self, job: usize) {
        let Some(index) = self.waiting.iter().position(|other| other.job == job) else { return };
        let gone = self.waiting.remove(index);
        let (before, after) = self.waiting.split_at_mut(index);
        let own = before.iter().filter(|other| other.client == gone.client).map(|other| other.tag);
        let mut last = own.fold(self.clock, f64::max);
        for other in after.iter_mut().filter(|other| other.client == gone.client) {
            other.tag = other.tag.min(last + other.seconds);
            last = last.max(other.tag);
        }
    }
}

/// The queue, and beside it the simplest model of what must be in it.
struct World {
    queue: Scheduler<usize>,
    order: Order,
    capacity: usize,
    now: Instant,
    jobs: Vec<Job>,
    waiting: Vec<usize>,
    /// The job, when it began, and whether the queue knows how long it takes.
    running: Option<(usize, Instant, bool)>,
    /// Models that have finished something.
    known: [bool; SPEED.len()],
    history: Vec<Event>,
    /// What those without a place were told, and what would have been true, in seconds.
    told: Vec<(Duration, f64)>,
}

impl World {
    fn new(capacity: usize) -> Self {
        let known = [false; SPEED.len()];
        let (queue, now) = (Scheduler::new(capacity, SPEED.len()), Instant::now());
        let (jobs, waiting, history, told) = Default::default();
        let order = Order::default();
        Self { queue, order, capacity, now, jobs, waiting, running: None, known, history, told }
    }

    /// A world in which every model has shown how fast it is.
    fn warm(capacity: usize) -> Self {
        let mut world = Self::new(capacity);
        for model in 0..SPEED.len() {
            world.step(&Step::Submit { client: 0, model, work: 10, patience: None });
            world.step(&Step::Start);
            world.step(&Step::Pass(8, true));
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

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit { client, model, work, patience } => {
                let deadline = patience.map(|patience| self.now + Duration::from_millis(patience));
                let takes = Duration::from_millis(work * SPEED[model]);
                self.submit(Job { client, model, takes, since: self.now, deadline, id: None }, work);
            }
            Step::Leave(which) => {
                let there: Vec<_> =
                    self.waiting.iter().copied().chain(self.running.map(|(job, ..)| job)).collect();
                if !there.is_empty() {
                    self.leave(*which.get(&there));
                }
            }
            Step::Start => self.start(),
            Step::Pass(eighths, told) => self.pass(eighths, told),
        }
        assert_eq!(self.queue.waiting(), self.waiting.len());
        self.queue.lines.check();
        assert_eq!(self.queue.is_idle(), self.waiting.is_empty() && self.running.is_none());
    }

    fn submit(&mut self, job: Job, work: u64) {
        let number = self.jobs.len();
        let cost = Cost { model: job.model, work, frames: 1 };
        let client = Self::client(job.client);
        let has_place = self.waiting.len() < self.capacity || self.queue.is_idle();
        let checked = self.queue.check(client, self.now);
        let admitted = self.queue.admit(client, cost, number, self.now);
        assert_eq!(checked.is_ok(), admitted.is_ok(), "what it says before, it does");
        match admitted {
            Err(full) => {
                assert!(!has_place, "it sent a job away though there was a place");
                self.hear(full);
            }
            Ok(Admitted { id, displaced }) => {
                assert_eq!(displaced.is_none(), has_place, "one makes room just when there is none");
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
                self.order.submit(number, job.client, pace * work as f64);
                self.jobs.push(Job { id: Some(id), ..job });
                self.waiting.push(number);
                self.history.push(Event::Admitted(number));
                // An idle queue takes one even if it has no places: it will run at once.
                let places = if self.running.is_some() { self.capacity } else { self.capacity.max(1) };
                assert!(self.waiting.len() <= places, "more wait than there are places");
            }
        }
    }

    /// Somebody is told when to come back.
    fn hear(&mut self, full: Full) {
        if let Some((job, since, is_known)) = self.running {
            let left = self.jobs[job].takes.saturating_sub(self.now - since);
            if is_known {
                self.told.push((full.retry_after, left.as_secs_f64()));
            }
        } else {
            assert_eq!(full.retry_after, NO_IDEA, "nothing runs, so it starts any moment");
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
        } else if self.running.is_some_and(|(running, ..)| running == job) {
            self.running = None;
            self.queue.finish(false, self.now);
        }
    }

    fn start(&mut self) {
        let Some(Started { job, waited }) = self.queue.start(self.now) else {
            assert!(self.running.is_some() || self.waiting.is_empty(), "it left work lying");
            return;
        };
        assert_eq!(self.order.start(), Some(job), "another one was to be started");
        assert!(self.running.is_none(), "two run");
        assert_eq!(waited, self.now - self.jobs[job].since);
        assert!(self.waiting.contains(&job), "it ran what was not waiting");
        assert!(self.jobs[job].deadline.is_none_or(|deadline| self.now < deadline), "it came too late");
        self.waiting.retain(|&waiting| waiting != job);
        self.running = Some((job, self.now, self.known[self.jobs[job].model]));
        self.history.push(Event::Started(job));
    }

    fn pass(&mut self, eighths: u32, told: bool) {
        let Some((job, since, _)) = self.running else {
            self.now += Duration::from_secs(eighths.into());
            return self.expire();
        };
        let takes = self.jobs[job].takes;
        self.now += (takes - (self.now - since)) * eighths / 8;
        if eighths == 8 {
            self.running = None;
            self.known[self.jobs[job].model] = true;
            self.queue.finish(true, self.now);
        } else if told {
            let done = (self.now - since).as_nanos() as usize;
            self.queue.progress(done, takes.as_nanos() as usize, self.now);
            self.running = Some((job, since, true));
        }
        self.expire();
    }

    /// Clients whose time is over leave.
    fn expire(&mut self) {
        let running = self.running.map(|(job, ..)| job);
        let late = |job: &usize| self.jobs[*job].deadline.is_some_and(|deadline| deadline <= self.now);
        let late: Vec<_> = self.waiting.iter().copied().chain(running).filter(late).collect();
        late.into_iter().for_each(|job| self.leave(job));
    }

    /// Everything happens, and then all that waits is done.
    fn live(mut self, steps: &[Step]) -> Self {
        steps.iter().for_each(|step| self.step(step));
        while !self.queue.is_idle() {
            self.step(&Step::Start);
            self.step(&Step::Pass(8, true));
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

    /// Besides what [`World`] itself asserts at each step: never more than the bound, no place left empty, nothing run that
    /// has left or is late.
    #[test]
    fn every_job_that_got_a_place_has_one_end((capacity, steps) in day()) {
        let world = World::new(capacity).live(&steps);
        for job in 0..world.jobs.len() {
            let ends = [Event::Left(job), Event::Displaced(job), Event::Started(job)];
            let count = world.history.iter().filter(|event| ends.contains(event)).count();
            prop_assert_eq!(count, 1, "job {} of {:?}", job, world.history);
        }
    }

    #[test]
    fn jobs_of_one_client_run_in_the_order_in_which_they_came((capacity, steps) in day()) {
        let world = World::new(capacity).live(&steps);
        for client in 0..CLIENTS {
            let own: Vec<_> = world.started().filter(|&job| world.jobs[job].client == client).collect();
            prop_assert!(own.is_sorted(), "{:?}", own);
        }
    }

    /// Whatever others send, withdraw and send again: until a job begins, each of them gets at most as much as its client
    /// had waiting when it came, itself included, and one job more.
    #[test]
    fn no_job_is_overtaken_by_more_than_its_share((capacity, steps) in day()) {
        let world = World::warm(capacity).live(&steps);
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
                        prop_assert!(
                            others[other] <= share + world.longest(other) + EPSILON,
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
    /// (Golestani 1994, theorem 1).
    #[test]
    fn clients_share_equally((capacity, steps) in day()) {
        let world = World::warm(capacity).live(&steps);
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
                prop_assert!(
                    more.abs() <= world.longest(client) + world.longest(other) + EPSILON,
                    "client {} got {} s more than client {}: {:?}", client, more, other, world.history
                );
            }
        }
    }

    /// As models have a constant speed here, it is true to the microsecond; so of two who ask one after the other, nobody
    /// is told a later moment than the one before, unless another job has begun.
    #[test]
    fn who_comes_back_when_told_does_not_come_early_or_late((capacity, steps) in day()) {
        for world in [World::new(capacity), World::warm(capacity)] {
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
    let (mut started, mut left, mut displaced, mut told) = (0, 0, 0, 0);
    for _ in 0..200 {
        let (capacity, steps) = day().new_tree(&mut runner).unwrap().current();
        let world = World::warm(capacity).live(&steps);
        for event in &world.history {
            match event {
                Event::Admitted(_) => {}
                Event::Left(_) => left += 1,
                Event::Displaced(_) => displaced += 1,
                Event::Started(_) => started += 1,
            }
        }
        told += world.told.len();
    }
    assert!(
        started > 1000 && left > 100 && displaced > 100 && told > 500,
        "{started} {left} {displaced} {told}"
    );
}
