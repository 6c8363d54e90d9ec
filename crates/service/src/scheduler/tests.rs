//! The rules of the queue, one by one.

use super::*;

const SMALL: Cost = Cost { model: 0, work: 100, frames: 1, kind: None, items: 1, together: 1 };
const LARGE: Cost = Cost { model: 0, work: 10_000, frames: 9, kind: None, items: 1, together: 1 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A client by its number.
fn client(number: u8) -> Client {
    Client::Address([10, 0, 0, number].into())
}

/// A job of client 1 that finds a free place.
fn admit<T: std::fmt::Debug>(queue: &mut Scheduler<T>, job: T, now: Instant) -> JobId {
    let Admitted { id, displaced } = queue.admit(client(1), SMALL, job, now).unwrap();
    assert!(displaced.is_none());
    id
}

/// The next job of the only worker, alone.
fn next<T>(queue: &mut Scheduler<T>, now: Instant) -> Option<Started<T>> {
    let mut started = queue.start(0, now);
    assert!(started.len() <= 1);
    started.pop()
}

/// All jobs that wait, in the order in which they are run.
fn order<T>(queue: &mut Scheduler<T>, now: Instant) -> Vec<T> {
    let mut jobs = Vec::new();
    while let Some(started) = next(queue, now) {
        jobs.push(started.job);
        queue.finish(0, false, now);
    }
    jobs
}

#[test]
fn jobs_run_one_by_one_in_order() {
    let start = Instant::now();
    let mut queue = Scheduler::new(Some(2), 1, 1);
    admit(&mut queue, "a", start);
    admit(&mut queue, "b", start);
    assert_eq!(next(&mut queue, start + seconds(1)), Some(Started { job: "a", waited: seconds(1) }));
    assert_eq!(next(&mut queue, start + seconds(1)), None, "one runs already");
    queue.finish(0, true, start + seconds(4));
    assert_eq!(next(&mut queue, start + seconds(4)), Some(Started { job: "b", waited: seconds(4) }));
    assert!(!queue.is_idle());
    queue.finish(0, true, start + seconds(5));
    assert!(queue.is_idle());
    assert_eq!(next(&mut queue, start + seconds(5)), None);
}

#[test]
fn a_client_with_many_jobs_waits_for_its_own() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(9), 1, 1);
    for job in ["1a", "1b", "1c"] {
        queue.admit(client(1), SMALL, job, now).unwrap();
    }
    for job in ["2a", "2b"] {
        queue.admit(client(2), SMALL, job, now).unwrap();
    }
    assert_eq!(order(&mut queue, now), ["1a", "2a", "1b", "2b", "1c"]);
}

#[test]
fn short_work_overtakes_long_work_but_not_for_ever() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(999), 1, 1);
    queue.admit(client(1), LARGE, "large", now).unwrap();
    let mut overtaken = 0;
    loop {
        // A client that always has one more.
        queue.admit(client(2), SMALL, "small", now).unwrap();
        let started = next(&mut queue, now).unwrap();
        queue.finish(0, false, now);
        if started.job == "large" {
            break;
        }
        overtaken += 1;
    }
    // The large one is a hundred times the work; the last is a matter of rounding.
    assert!((99..=100).contains(&overtaken), "{overtaken}");
    // One client's own short work does not overtake its long work.
    let mut queue = Scheduler::new(Some(9), 1, 1);
    queue.admit(client(1), LARGE, "large", now).unwrap();
    queue.admit(client(1), SMALL, "small", now).unwrap();
    assert_eq!(order(&mut queue, now), ["large", "small"]);
}

#[test]
fn who_has_waited_for_nothing_has_saved_nothing() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(9), 1, 1);
    for _ in 0..5 {
        queue.admit(client(1), LARGE, "before", now).unwrap();
    }
    assert_eq!(order(&mut queue, now).len(), 5);
    // Client 2 asked for nothing so far, and gets its share from now on, not more.
    for job in ["1a", "1b"] {
        queue.admit(client(1), SMALL, job, now).unwrap();
    }
    for job in ["2a", "2b"] {
        queue.admit(client(2), SMALL, job, now).unwrap();
    }
    assert_eq!(order(&mut queue, now), ["1a", "2a", "1b", "2b"]);
}

#[test]
fn a_job_that_is_given_up_costs_its_client_nothing() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(9), 1, 1);
    let large = queue.admit(client(1), LARGE, "large", now).unwrap().id;
    queue.admit(client(1), SMALL, "1", now).unwrap();
    queue.admit(client(2), SMALL, "2", now).unwrap();
    assert!(queue.abandon(large).is_some());
    assert_eq!(order(&mut queue, now), ["1", "2"]);
}

#[test]
fn a_job_that_is_given_up_late_gives_its_client_no_claim_on_the_past() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(999), 1, 1);
    let large = queue.admit(client(1), LARGE, "given up", now).unwrap().id;
    queue.admit(client(1), SMALL, "small", now).unwrap();
    queue.admit(client(2), LARGE, "large", now).unwrap();
    // Client 3 is served until it is nearly the turn of the large ones.
    for _ in 0..98 {
        queue.admit(client(3), SMALL, "small", now).unwrap();
        assert_eq!(next(&mut queue, now).unwrap().job, "small");
        queue.finish(0, false, now);
    }
    // Were the small one put where it would be without the large one, virtual time would go back with it, and client 2 would
    // wait all over again.
    assert!(queue.abandon(large).is_some());
    let mut overtaken = 0;
    loop {
        let started = next(&mut queue, now).unwrap();
        queue.admit(client(3), SMALL, "small", now).unwrap();
        queue.finish(0, false, now);
        if started.job == "large" {
            break;
        }
        overtaken += 1;
    }
    assert!(overtaken <= 3, "{overtaken}");
}

#[test]
fn a_full_queue_takes_nobody_until_one_starts_or_leaves() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(1), 1, 1);
    admit(&mut queue, 0, now);
    let second = queue.admit(client(1), SMALL, 1, now);
    assert!(second.is_err(), "one waits, and the executor has not come for it");
    next(&mut queue, now).unwrap();
    let second = admit(&mut queue, 2, now);
    assert!(queue.check(client(1), now).is_err());
    assert!(queue.abandon(second).is_some());
    assert!(queue.abandon(second).is_none(), "it is gone");
    admit(&mut queue, 3, now);
    queue.finish(0, true, now);
    assert_eq!(next(&mut queue, now).unwrap().job, 3);
}

#[test]
fn the_greediest_client_makes_room() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(3), 1, 1);
    admit(&mut queue, "running", now);
    next(&mut queue, now).unwrap();
    for job in ["1a", "1b", "1c"] {
        admit(&mut queue, job, now);
    }
    assert!(queue.check(client(1), now).is_err(), "nobody displaces himself");
    assert!(queue.check(client(2), now).is_ok());
    let admitted = queue.admit(client(2), SMALL, "2a", now).unwrap();
    assert_eq!(admitted.displaced, Some(("1c", Full { capacity: 3, retry_after: NO_IDEA })));
    // Two and one: the roles would only be changed.
    assert!(queue.check(client(2), now).is_err());
    // Client 3 has none, client 1 has two.
    let admitted = queue.admit(client(3), SMALL, "3a", now).unwrap();
    assert_eq!(admitted.displaced.map(|(job, _)| job), Some("1b"));
    assert!(queue.check(client(4), now).is_err(), "everybody has one");
    queue.finish(0, true, now);
    assert_eq!(order(&mut queue, now), ["1a", "2a", "3a"]);
}

#[test]
fn without_places_one_job_may_still_run() {
    let now = Instant::now();
    let mut queue = Scheduler::new(Some(0), 1, 1);
    admit(&mut queue, (), now);
    assert!(queue.check(client(2), now).is_err());
    next(&mut queue, now).unwrap();
    assert!(queue.check(client(2), now).is_err());
    queue.finish(0, true, now);
    admit(&mut queue, (), now);
}

#[test]
fn what_is_told_to_those_who_find_it_full() {
    let start = Instant::now();
    let mut queue = Scheduler::new(Some(0), 2, 1);
    let told = |queue: &Scheduler<()>, after| {
        queue.check(client(1), start + seconds(after)).unwrap_err().retry_after
    };

    admit(&mut queue, (), start);
    next(&mut queue, start).unwrap();
    assert_eq!(told(&queue, 3), NO_IDEA, "no job has been finished yet");
    queue.progress(0, 1, 1_000_000, start + seconds(3));
    assert_eq!(told(&queue, 3), NO_IDEA, "a millionth of the work tells nothing");
    queue.progress(0, 1, 4, start + seconds(3));
    assert_eq!(told(&queue, 3), seconds(9), "a quarter took three seconds");
    assert_eq!(told(&queue, 5), seconds(7), "two seconds later it is two seconds less");
    // Had it waited for memory, only the time since then would count.
    queue.begin(0, start + seconds(2));
    queue.progress(0, 1, 4, start + seconds(4));
    assert_eq!(told(&queue, 4), seconds(6), "a quarter took two seconds");
    queue.finish(0, true, start + seconds(12));

    // Twice the work, so twice the ten seconds, by the pace alone.
    queue.admit(client(1), Cost { work: 200, ..SMALL }, (), start + seconds(10)).unwrap();
    next(&mut queue, start + seconds(10)).unwrap();
    assert_eq!(told(&queue, 15), seconds(15));
    assert_eq!(told(&queue, 99), seconds(0), "late, but never negative");
    queue.finish(0, false, start + seconds(99));

    // A cancelled job taught nothing, and a model that has done nothing yet is taken for one like the others.
    admit(&mut queue, (), start + seconds(100));
    next(&mut queue, start + seconds(100)).unwrap();
    assert_eq!(told(&queue, 100), seconds(10));
    queue.finish(0, false, start + seconds(100));
    queue.admit(client(1), Cost { model: 1, ..SMALL }, (), start + seconds(100)).unwrap();
    next(&mut queue, start + seconds(100)).unwrap();
    assert_eq!(told(&queue, 100), seconds(10));
    queue.finish(0, true, start + seconds(140));
    // From then on it has its own pace.
    queue.admit(client(1), Cost { model: 1, ..SMALL }, (), start + seconds(140)).unwrap();
    next(&mut queue, start + seconds(140)).unwrap();
    assert_eq!(told(&queue, 140), seconds(40));
}

#[test]
fn the_pace_follows_the_newest_jobs() {
    let mut now = Instant::now();
    let mut queue = Scheduler::new(Some(0), 1, 1);
    for _ in 0..20 {
        for took in [1, 3] {
            admit(&mut queue, (), now);
            next(&mut queue, now).unwrap();
            now += seconds(took);
            queue.finish(0, true, now);
        }
    }
    admit(&mut queue, (), now);
    next(&mut queue, now).unwrap();
    let told = queue.check(client(1), now).unwrap_err().retry_after;
    assert!(seconds(2) < told && told < seconds(3), "{told:?}");
}

#[test]
fn progress_is_counted_in_frames() {
    let (mut queue, start) = (Scheduler::new(Some(1), 1, 1), Instant::now());
    assert_eq!(queue.running(), None);
    queue.admit(client(0), LARGE, (), start).unwrap();
    assert_eq!(queue.running(), None, "it waits");
    next(&mut queue, start).unwrap();
    for (done, frames) in [(0, 0), (10, 0), (12, 1), (99, 8), (100, 9), (120, 9)] {
        queue.progress(0, done, 100, start);
        assert_eq!(queue.running(), Some([frames, 9]));
    }
    queue.finish(0, true, start);
    assert_eq!(queue.running(), None);
}

#[test]
fn many_who_wait_cost_nobody_time() {
    // As many as an attacker's addresses. With time in proportion to who waits, what follows would take minutes; in
    // proportion to its square, years.
    let (now, many) = (Instant::now(), 50_000_u64);
    let mut queue = Scheduler::new(Some(2 * many as usize), 1, 1);
    let mut ids = Vec::new();
    for number in 0..many {
        for client in [Client::Key(number), Client::Key(many)] {
            ids.push(queue.admit(client, SMALL, number, now).unwrap().id);
        }
    }
    let begun = Instant::now();
    for _ in 0..many {
        assert!(queue.check(Client::Key(many), now).is_err());
        assert!(queue.check(Client::Key(many + 1), now).is_ok());
    }
    // One client leaves with half of them, the oldest first; of the others each second one.
    for id in ids.iter().skip(1).step_by(2).chain(ids.iter().step_by(4)) {
        assert!(queue.abandon(*id).is_some());
    }
    assert_eq!(order(&mut queue, now), (0..many).skip(1).step_by(2).collect::<Vec<_>>());
    assert!(begun.elapsed() < seconds(20), "{:?}", begun.elapsed());
}

/// A job of a kind, of which so many may run together.
fn of_kind(model: usize, together: usize) -> Cost {
    let options = Options::Decode(DecodeOptions::default());
    let kind = Some(Arc::new(Kind { model, shape: vec![4, 2, 2], options }));
    Cost { model, kind, together, ..SMALL }
}

fn batch<T>(queue: &mut Scheduler<T>, worker: usize, now: Instant) -> Vec<T> {
    queue.start(worker, now).into_iter().map(|started| started.job).collect()
}

#[test]
fn what_waits_together_and_fits_together_runs_together() {
    let now = Instant::now();
    let mut queue = Scheduler::new(None, 2, 1);
    queue.admit(client(9), of_kind(0, 4), "lone", now).unwrap();
    assert_eq!(batch(&mut queue, 0, now), ["lone"], "it does not wait for others");
    for number in 1..=6 {
        queue.admit(client(number), of_kind(0, 4), "a", now).unwrap();
    }
    queue.admit(client(7), of_kind(1, 4), "b", now).unwrap();
    queue.admit(client(8), SMALL, "c", now).unwrap();
    assert_eq!(batch(&mut queue, 0, now), [""; 0], "the worker is busy");
    queue.finish(0, true, now + seconds(1));
    assert_eq!(batch(&mut queue, 0, now), ["a"; 4]);
    assert_eq!(queue.running(), Some([0, 4]));
    queue.finish(0, true, now + seconds(2));
    // Those of another kind came later, and their tags are the same.
    assert_eq!(batch(&mut queue, 0, now), ["a"; 2]);
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), ["b"]);
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), ["c"]);
}

#[test]
fn the_items_of_a_batch_are_counted() {
    let now = Instant::now();
    let mut queue = Scheduler::new(None, 1, 1);
    let items = |items| Cost { items, ..of_kind(0, 4) };
    for (number, count) in [(1, 1), (2, 2), (3, 2), (4, 1)] {
        queue.admit(client(number), items(count), number, now).unwrap();
    }
    // The third does not fit, and what came after it does not overtake it.
    assert_eq!(batch(&mut queue, 0, now), [1, 2]);
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), [3, 4]);
}

#[test]
fn a_batch_keeps_the_order_of_a_client() {
    let now = Instant::now();
    let mut queue = Scheduler::new(None, 1, 1);
    let mut large = of_kind(0, 9);
    large.kind = None;
    for (job, cost) in [("1", of_kind(0, 9)), ("2", of_kind(0, 9)), ("3", large), ("4", of_kind(0, 9))] {
        queue.admit(client(1), cost, job, now).unwrap();
    }
    assert_eq!(batch(&mut queue, 0, now), ["1", "2"]);
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), ["3"]);
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), ["4"]);
}

#[test]
fn who_was_served_in_a_batch_has_had_it() {
    let now = Instant::now();
    let mut queue = Scheduler::new(None, 1, 1);
    // Client 1 has four jobs in one batch, client 2 one of another kind that is as long as two of them.
    for _ in 0..4 {
        queue.admit(client(1), of_kind(0, 9), "1", now).unwrap();
    }
    queue.admit(client(2), Cost { work: 200, ..SMALL }, "2", now).unwrap();
    assert_eq!(batch(&mut queue, 0, now), ["1"; 4]);
    // It comes again, and the other one is first.
    queue.admit(client(1), of_kind(0, 9), "1 again", now).unwrap();
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), ["2"]);
    queue.finish(0, false, now);
    assert_eq!(batch(&mut queue, 0, now), ["1 again"]);
    queue.finish(0, false, now);
    queue.lines.check();
}

#[test]
fn workers_take_turns() {
    let start = Instant::now();
    let mut queue = Scheduler::new(Some(1), 1, 2);
    // Two can start at once, and one may wait.
    for job in ["a", "b"] {
        admit(&mut queue, job, start);
    }
    assert!(queue.check(client(1), start).is_err(), "both wait yet");
    assert_eq!(batch(&mut queue, 1, start), ["a"]);
    assert_eq!(batch(&mut queue, 1, start), [""; 0]);
    assert_eq!(batch(&mut queue, 0, start), ["b"]);
    admit(&mut queue, "c", start);
    queue.progress(0, 1, 4, start + seconds(1));
    queue.progress(1, 1, 2, start + seconds(1));
    let told = queue.check(client(2), start + seconds(1)).unwrap_err().retry_after;
    assert_eq!(told, seconds(1), "the worker that is free first counts");
    assert!(!queue.is_idle());
    queue.finish(1, true, start + seconds(2));
    assert_eq!(batch(&mut queue, 1, start + seconds(2)), ["c"]);
    queue.finish(0, true, start + seconds(4));
    queue.finish(1, true, start + seconds(4));
    assert!(queue.is_idle());
}

#[test]
fn what_is_foretold_is_a_share_of_what_waits() {
    let start = Instant::now();
    let mut queue = Scheduler::new(None, 1, 1);
    let eta = |queue: &Scheduler<&str>, number| queue.eta(client(number), &SMALL, start + seconds(10));
    assert_eq!(eta(&queue, 1), None, "nothing is known yet");
    admit(&mut queue, "a", start);
    batch(&mut queue, 0, start);
    queue.finish(0, true, start + seconds(10));
    let after = |starts, ends| Some(Eta { starts: seconds(starts), ends: seconds(ends) });
    assert_eq!(eta(&queue, 1), after(0, 10));
    for _ in 0..5 {
        queue.admit(client(1), SMALL, "1", start + seconds(10)).unwrap();
    }
    assert_eq!(eta(&queue, 1), after(50, 60), "all of its own come first");
    assert_eq!(eta(&queue, 2), after(10, 20), "one of the other client's comes first");
    batch(&mut queue, 0, start + seconds(10));
    assert_eq!(eta(&queue, 2), after(20, 30), "and the one that runs");
}
