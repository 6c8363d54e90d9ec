//! The jobs that wait, one line a client, so that the next one and the client with the most are found without a look at all
//! of them: clients decide how many wait, so nothing here may take time in proportion to it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Cost;
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
    /// The tag of the first one. That of each other one would be the tag before it and its own seconds.
    tag: f64,
}

/// All jobs that wait. Each step takes time in proportion to the logarithm of their number.
pub(super) struct Lines<T> {
    lines: HashMap<Client, Line<T>>,
    /// Whose first job has which tag and number. The bits of floats that are not negative are ordered as the floats.
    heads: BTreeMap<(u64, u64), Client>,
    /// Who has how many jobs, and the number of the newest.
    holders: BTreeMap<(usize, u64), Client>,
    len: usize,
    /// Virtual time: the tag of the job that was started last. It never goes back, as no waiting job has a smaller tag.
    clock: f64,
}

impl<T> Lines<T> {
    pub(super) fn new() -> Self {
        Self { lines: HashMap::new(), heads: BTreeMap::new(), holders: BTreeMap::new(), len: 0, clock: 0.0 }
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many jobs of this client wait.
    pub(super) fn held(&self, client: Client) -> usize {
        self.lines.get(&client).map_or(0, |line| line.jobs.len())
    }

    /// The client with the most jobs, and how many.
    pub(super) fn greediest(&self) -> Option<(Client, usize)> {
        self.holders.last_key_value().map(|(&(held, _), &client)| (client, held))
    }

    /// Puts a job at the end of its client's line; `number` is larger than all before.
    pub(super) fn push(&mut self, client: Client, number: u64, waiting: Waiting<T>) {
        self.unlist(client);
        let first = self.clock + waiting.seconds;
        let line = self.lines.entry(client).or_insert_with(|| Line { jobs: BTreeMap::new(), tag: first });
        line.jobs.insert(number, waiting);
        self.len += 1;
        self.list(client);
    }

    /// Takes the job with the smallest tag; of equals the oldest.
    pub(super) fn pop(&mut self) -> Option<Waiting<T>> {
        let (&(tag, number), &client) = self.heads.first_key_value()?;
        self.clock = f64::from_bits(tag);
        self.remove(client, number)
    }

    /// Takes a job out of its line. Those that came later move up as if it had never been there; but not before the
    /// present: what it waited for in vain gives its client no claim on what others have had since.
    pub(super) fn remove(&mut self, client: Client, number: u64) -> Option<Waiting<T>> {
        let line = self.lines.get(&client)?;
        let is_first = line.jobs.first_key_value().is_some_and(|(&first, _)| first == number);
        if !line.jobs.contains_key(&number) {
            return None;
        }
        self.unlist(client);
        let line = self.lines.get_mut(&client)?;
        let gone = line.jobs.remove(&number);
        if let (true, Some((_, next))) = (is_first, line.jobs.first_key_value()) {
            line.tag = self.clock + next.seconds;
        }
        self.len -= 1;
        self.list(client);
        gone
    }

    /// Takes the newest job of a client.
    pub(super) fn remove_newest(&mut self, client: Client) -> Option<Waiting<T>> {
        let (&newest, _) = self.lines.get(&client)?.jobs.last_key_value()?;
        self.remove(client, newest)
    }

    /// Forgets whose line is how long and has which tag, before it changes.
    fn unlist(&mut self, client: Client) {
        if let Some((head, holder)) = self.lines.get(&client).and_then(Line::keys) {
            self.heads.remove(&head);
            self.holders.remove(&holder);
        }
    }

    /// Notes whose line is how long and has which tag, after it has changed.
    fn list(&mut self, client: Client) {
        match self.lines.get(&client).and_then(Line::keys) {
            Some((head, holder)) => {
                self.heads.insert(head, client);
                self.holders.insert(holder, client);
            }
            None => {
                self.lines.remove(&client);
            }
        }
    }
}

impl<T> Line<T> {
    /// What it is listed under; nothing if it is empty.
    fn keys(&self) -> Option<((u64, u64), (usize, u64))> {
        let ((&first, _), (&newest, _)) = (self.jobs.first_key_value()?, self.jobs.last_key_value()?);
        Some(((self.tag.to_bits(), first), (self.jobs.len(), newest)))
    }
}

#[cfg(test)]
impl<T> Lines<T> {
    /// Looks at everything that must hold between two steps.
    pub(super) fn check(&self) {
        assert_eq!(self.len, self.lines.values().map(|line| line.jobs.len()).sum::<usize>());
        assert_eq!([self.heads.len(), self.holders.len()], [self.lines.len(); 2]);
        for (client, line) in &self.lines {
            let (head, holder) = line.keys().expect("an empty line");
            assert_eq!((self.heads[&head], self.holders[&holder]), (*client, *client));
            assert!(line.tag >= self.clock, "virtual time would go back");
        }
    }
}
