//! The jobs that wait, one line a client, so that the next one and the client with the most are found without a look at all
//! of them: clients decide how many wait, so nothing here may take time in proportion to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::{Cost, Kind};
use crate::client::Client;

/// A job that waits.
pub(super) struct Waiting<T> {
    pub(super) cost: Cost,
    /// How long it was expected to take when it came.
    pub(super) seconds: f64,
    pub(super) since: Instant,
    pub(super) job: T,
}

/// The jobs of one client, by their numbers, which is the order in which they came.
struct Line<T> {
    jobs: BTreeMap<u64, Waiting<T>>,
    /// Up to which virtual time the client has been served. The tag of the first job is this and its own seconds; that of
    /// each other one would be the tag before it and its own seconds.
    served: f64,
    /// The seconds of all jobs.
    seconds: f64,
}

/// Which clients' first jobs have which tags and numbers. The bits of floats that are not negative are ordered as the
/// floats.
type Heads = BTreeMap<(u64, u64), Client>;

/// All jobs that wait. Each call takes time in proportion to the logarithm of their number.
pub(super) struct Lines<T> {
    lines: HashMap<Client, Line<T>>,
    heads: Heads,
    /// The heads of each kind of jobs.
    kinds: HashMap<Arc<Kind>, Heads>,
    /// Who has how many jobs, and the number of the newest.
    holders: BTreeMap<(usize, u64), Client>,
    /// Clients without a job that were served beyond the present, as their jobs ran together with an earlier one.
    ahead: HashMap<Client, (f64, u64)>,
    ahead_order: BTreeMap<(u64, u64), Client>,
    len: usize,
    /// Units of work that wait, by model.
    work: Vec<u64>,
    /// Virtual time: the tag of the job that was started last. It never goes back, as no waiting job has a smaller tag.
    clock: f64,
}

/// Where the next job of a line begins.
enum From {
    /// Where the job that was taken ends: it is being served.
    Tag,
    /// Where that one would have begun, but not before the present: what it waited for in vain gives its client no claim
    /// on what others have had since.
    Present,
}

impl<T> Lines<T> {
    pub(super) fn new(models: usize) -> Self {
        Self {
            lines: HashMap::new(),
            heads: BTreeMap::new(),
            kinds: HashMap::new(),
            holders: BTreeMap::new(),
            ahead: HashMap::new(),
            ahead_order: BTreeMap::new(),
            len: 0,
            work: vec![0; models],
            clock: 0.0,
        }
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many clients wait.
    pub(super) fn clients(&self) -> usize {
        self.lines.len()
    }

    /// Units of work that wait, by model.
    pub(super) fn work(&self) -> &[u64] {
        &self.work
    }

    /// How many jobs of this client wait.
    pub(super) fn held(&self, client: Client) -> usize {
        self.lines.get(&client).map_or(0, |line| line.jobs.len())
    }

    /// How many seconds the jobs of this client that wait are expected to take.
    pub(super) fn seconds(&self, client: Client) -> f64 {
        self.lines.get(&client).map_or(0.0, |line| line.seconds)
    }

    /// The client with the most jobs, and how many.
    pub(super) fn greediest(&self) -> Option<(Client, usize)> {
        self.holders.last_key_value().map(|(&(held, _), &client)| (client, held))
    }

    /// Puts a job at the end of its client's line; `number` is larger than all before.
    pub(super) fn push(&mut self, client: Client, number: u64, waiting: Waiting<T>) {
        self.unlist(client);
        let served = self.take_ahead(client).map_or(self.clock, |ahead| ahead.max(self.clock));
        if let Some(work) = self.work.get_mut(waiting.cost.model) {
            *work = work.saturating_add(waiting.cost.work);
        }
        let line =
            self.lines.entry(client).or_insert_with(|| Line { jobs: BTreeMap::new(), served, seconds: 0.0 });
        line.seconds += waiting.seconds;
        line.jobs.insert(number, waiting);
        self.len += 1;
        self.list(client);
    }

    /// Takes the job with the smallest tag; of equals the oldest.
    pub(super) fn pop(&mut self) -> Option<Waiting<T>> {
        let (&(tag, number), &client) = self.heads.first_key_value()?;
        self.clock = f64::from_bits(tag);
        self.forget_ahead();
        self.take(client, number, From::Tag)
    }

    /// Takes the job of this kind with the smallest tag, if that is not more than `seconds` from the present and `fits`.
    pub(super) fn pop_kind(
        &mut self,
        kind: &Kind,
        seconds: f64,
        fits: impl FnOnce(&Cost) -> bool,
    ) -> Option<Waiting<T>> {
        let (&(tag, number), &client) = self.kinds.get(kind)?.first_key_value()?;
        let first = self.lines.get(&client)?.jobs.get(&number)?;
        // What is equal but for rounding is equal.
        if f64::from_bits(tag) > (self.clock + seconds) * (1.0 + f64::EPSILON.sqrt()) || !fits(&first.cost) {
            return None;
        }
        self.take(client, number, From::Tag)
    }

    /// Takes a job out of its line that nobody waits for. Those that came later move up as if it had never been there.
    pub(super) fn remove(&mut self, client: Client, number: u64) -> Option<Waiting<T>> {
        self.take(client, number, From::Present)
    }

    /// Takes the newest job of a client.
    pub(super) fn remove_newest(&mut self, client: Client) -> Option<Waiting<T>> {
        let (&newest, _) = self.lines.get(&client)?.jobs.last_key_value()?;
        self.remove(client, newest)
    }

    fn take(&mut self, client: Client, number: u64, from: From) -> Option<Waiting<T>> {
        let line = self.lines.get(&client)?;
        let is_first = line.jobs.first_key_value().is_some_and(|(&first, _)| first == number);
        if !line.jobs.contains_key(&number) {
            return None;
        }
        self.unlist(client);
        let line = self.lines.get_mut(&client)?;
        let gone = line.jobs.remove(&number)?;
        if is_first {
            line.served = match from {
                From::Tag => line.served + gone.seconds,
                From::Present => line.served.max(self.clock),
            };
        }
        line.seconds -= gone.seconds;
        let (is_empty, served) = (line.jobs.is_empty(), line.served);
        self.len -= 1;
        if let Some(work) = self.work.get_mut(gone.cost.model) {
            *work = work.saturating_sub(gone.cost.work);
        }
        if is_empty {
            self.lines.remove(&client);
            if served > self.clock {
                self.ahead.insert(client, (served, number));
                self.ahead_order.insert((served.to_bits(), number), client);
            }
        }
        self.list(client);
        Some(gone)
    }

    /// Up to when a client without a job was served, if that is beyond the present.
    fn take_ahead(&mut self, client: Client) -> Option<f64> {
        let (served, number) = self.ahead.remove(&client)?;
        self.ahead_order.remove(&(served.to_bits(), number));
        Some(served)
    }

    /// Forgets clients whom the present has caught up with.
    fn forget_ahead(&mut self) {
        while let Some(first) = self.ahead_order.first_entry() {
            if f64::from_bits(first.key().0) > self.clock {
                return;
            }
            self.ahead.remove(&first.remove());
        }
    }

    /// Forgets whose line is how long and has which tag, before it changes.
    fn unlist(&mut self, client: Client) {
        let Some((head, holder, kind)) = self.lines.get(&client).and_then(Line::keys) else { return };
        self.heads.remove(&head);
        self.holders.remove(&holder);
        if let Some(heads) = kind.as_ref().and_then(|kind| self.kinds.get_mut(kind)) {
            heads.remove(&head);
        }
        if let Some(kind) = kind.filter(|kind| self.kinds.get(kind).is_some_and(BTreeMap::is_empty)) {
            self.kinds.remove(&kind);
        }
    }

    /// Notes whose line is how long and has which tag, after it has changed.
    fn list(&mut self, client: Client) {
        let Some((head, holder, kind)) = self.lines.get(&client).and_then(Line::keys) else { return };
        self.heads.insert(head, client);
        self.holders.insert(holder, client);
        if let Some(kind) = kind {
            self.kinds.entry(kind).or_default().insert(head, client);
        }
    }
}

/// What a line is listed under: its tag and first number, its length and newest number, and the kind of its first job.
type Keys = ((u64, u64), (usize, u64), Option<Arc<Kind>>);

impl<T> Line<T> {
    /// What it is listed under; nothing if it is empty.
    fn keys(&self) -> Option<Keys> {
        let ((&first, head), (&newest, _)) = (self.jobs.first_key_value()?, self.jobs.last_key_value()?);
        let tag = self.served + head.seconds;
        Some(((tag.to_bits(), first), (self.jobs.len(), newest), head.cost.kind.clone()))
    }
}

#[cfg(test)]
impl<T> Lines<T> {
    /// Looks at everything that must hold between two calls.
    pub(super) fn check(&self) {
        assert_eq!(self.len, self.lines.values().map(|line| line.jobs.len()).sum::<usize>());
        assert_eq!([self.heads.len(), self.holders.len()], [self.lines.len(); 2]);
        let with_kind =
            self.lines.values().filter_map(Line::keys).filter(|(.., kind)| kind.is_some()).count();
        assert_eq!(with_kind, self.kinds.values().map(BTreeMap::len).sum::<usize>());
        assert!(self.kinds.values().all(|heads| !heads.is_empty()), "a kind that nothing waits of");
        for (client, line) in &self.lines {
            let (head, holder, kind) = line.keys().expect("an empty line");
            assert_eq!((self.heads[&head], self.holders[&holder]), (*client, *client));
            assert!(kind.is_none_or(|kind| self.kinds[&kind][&head] == *client));
            assert!(f64::from_bits(head.0) >= self.clock, "virtual time would go back");
            assert!(!self.ahead.contains_key(client), "a client is noted twice");
        }
        assert_eq!(self.ahead.len(), self.ahead_order.len());
        assert!(self.ahead.values().all(|&(served, _)| served > self.clock));
    }
}
