//! Which of several endpoints gets a request: a pure state machine, told the time by its caller.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::retry::{Failure, Retry};

/// What is known of each endpoint.
#[derive(Debug)]
pub(crate) struct Balance {
    endpoints: Mutex<Vec<Endpoint>>,
    /// Since when no endpoint has answered any more.
    silent_since: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug, Default)]
struct Endpoint {
    in_flight: usize,
    /// Requests that it has been given: decides between those that are equally busy.
    given: u64,
    /// Whether it has ever answered.
    reached: bool,
    /// Times in a row that it could not be reached.
    failures: u32,
    /// Since when, and until when it is left out.
    out: Option<(Instant, Instant)>,
}

/// A request that an endpoint has been given. Dropping it takes the request back.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    balance: &'a Balance,
    pub(crate) index: usize,
    since: Instant,
}

impl Balance {
    pub(crate) fn new(endpoints: usize) -> Self {
        Self { endpoints: Mutex::new(vec![Endpoint::default(); endpoints]), silent_since: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Endpoint>> {
        // Counters are never left half changed, so a panic elsewhere does not spoil them.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request to the least busy endpoint that may be asked now. `not_before` is when this very request may
    /// go to each of them.
    ///
    /// # Errors
    /// When the first of them may be asked, if none may be now.
    pub(crate) fn give(&self, not_before: &[Option<Instant>], now: Instant) -> Result<Given<'_>, Instant> {
        let mut endpoints = self.lock();
        let free = endpoints
            .iter_mut()
            .enumerate()
            .filter(|(index, endpoint)| endpoint.from(not_before, *index, now) <= now)
            .min_by_key(|(_, endpoint)| (endpoint.in_flight, endpoint.given));
        if let Some((index, endpoint)) = free {
            endpoint.in_flight += 1;
            endpoint.given += 1;
            return Ok(Given { balance: self, index, since: now });
        }
        Err(earliest(&endpoints, not_before, now))
    }

    /// When such a request could be given to an endpoint: `now`, or later.
    pub(crate) fn when(&self, not_before: &[Option<Instant>], now: Instant) -> Instant {
        earliest(&self.lock(), not_before, now)
    }

    /// Since when a request that has just failed has waited for an endpoint. Requests of one outage share its beginning, so
    /// that they give up together; after `patience` it is a new wait.
    pub(crate) fn waited_since(&self, patience: Duration, now: Instant) -> Instant {
        let since = *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.filter(|since| now < *since + patience).unwrap_or(now)
    }

    /// Whether any endpoint has ever answered.
    pub(crate) fn reached(&self) -> bool {
        self.lock().iter().any(|endpoint| endpoint.reached)
    }
}

impl Endpoint {
    /// When a request may go to this endpoint, the one at `index`.
    fn from(&self, not_before: &[Option<Instant>], index: usize, now: Instant) -> Instant {
        let request = not_before.get(index).copied().flatten();
        request.max(self.out.map(|(_, until)| until)).unwrap_or(now)
    }
}

fn earliest(endpoints: &[Endpoint], not_before: &[Option<Instant>], now: Instant) -> Instant {
    let times = endpoints.iter().enumerate().map(|(index, endpoint)| endpoint.from(not_before, index, now));
    times.min().unwrap_or(now).max(now)
}

impl Given<'_> {
    /// What came of it, for those that come after.
    pub(crate) fn ended(self, failure: Option<Failure>, retry: &Retry, now: Instant) {
        let mut silent_since = self.balance.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None | Some(Failure::Busy(_) | Failure::Final) => *silent_since = None,
            Some(_) => drop(silent_since.get_or_insert(now)),
        }
        drop(silent_since);
        let mut endpoints = self.balance.lock();
        let Some(endpoint) = endpoints.get_mut(self.index) else { return };
        match failure {
            None | Some(Failure::Busy(_) | Failure::Final) => {
                *endpoint = Endpoint { reached: true, failures: 0, out: None, ..endpoint.clone() };
            }
            // Requests that were under way when it failed say nothing new of it.
            Some(_) if endpoint.out.is_some_and(|(since, _)| self.since <= since) => {}
            Some(failure) => {
                endpoint.reached |= failure == Failure::Broken;
                endpoint.failures += 1;
                endpoint.out = Some((now, now + retry.pause(endpoint.failures)));
            }
        }
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.balance.lock().get_mut(self.index) {
            endpoint.in_flight -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_least_busy_is_first_and_equals_take_turns() {
        let balance = Balance::new(3);
        let now = Instant::now();
        let give = || balance.give(&[], now).unwrap();
        let given = [give(), give(), give(), give()];
        assert_eq!(given.each_ref().map(|given| given.index), [0, 1, 2, 0]);
        let [_a, b, _c, _d] = given;
        drop(b);
        assert_eq!(give().index, 1);
    }

    #[test]
    fn one_that_fails_is_left_out_and_comes_back() {
        let (balance, retry, now) = (Balance::new(2), Retry::default(), Instant::now());
        let at = |time: Duration| balance.give(&[], now + time).map(|given| given.index);
        let (first, late) = (balance.give(&[], now).unwrap(), balance.give(&[], now).unwrap());
        assert_eq!((first.index, late.index), (0, 1));
        assert!(!balance.reached());
        late.ended(None, &retry, now);
        assert!(balance.reached());
        first.ended(Some(Failure::Down), &retry, now);
        let soon = Duration::from_millis(1);
        assert_eq!([at(soon), at(soon), at(soon)], [Ok(1); 3]);
        assert_eq!(at(SECOND), Ok(0), "its turn has come again");

        // Both out: the time at which the first of them may be asked.
        for index in [0, 1] {
            let given = balance.give(&[], now + SECOND).unwrap();
            assert_eq!(given.index, index);
            given.ended(Some(Failure::Broken), &retry, now + SECOND);
        }
        let again = at(SECOND).unwrap_err();
        assert!(again > now + SECOND && again <= now + SECOND + Duration::from_millis(400));
        assert!(at(2 * SECOND).is_ok());
    }

    #[test]
    fn one_outage_counts_once() {
        let (balance, retry, now) = (Balance::new(1), Retry::default(), Instant::now());
        let under_way: Vec<_> = (0..8).map(|_| balance.give(&[], now).unwrap()).collect();
        for given in under_way {
            given.ended(Some(Failure::Broken), &retry, now + SECOND);
        }
        let again = balance.give(&[], now + SECOND).unwrap_err();
        assert!(again <= now + SECOND + Duration::from_millis(200), "eight failures, one pause");
    }

    #[test]
    fn an_outage_has_one_beginning() {
        let (balance, retry, now) = (Balance::new(2), Retry::default(), Instant::now());
        let fail = |at: Instant| {
            let given = balance.give(&[], at).unwrap();
            given.ended(Some(Failure::Down), &retry, at);
            balance.waited_since(3 * SECOND, at)
        };
        assert_eq!(fail(now), now);
        assert_eq!(fail(now + 2 * SECOND), now, "who comes later waits no longer");
        assert_eq!(fail(now + 4 * SECOND), now + 4 * SECOND, "the first have given up: a new wait");
        balance.give(&[], now + 9 * SECOND).unwrap().ended(None, &retry, now + 9 * SECOND);
        assert_eq!(fail(now + 10 * SECOND), now + 10 * SECOND, "it had answered");
    }

    #[test]
    fn a_request_stays_away_from_who_refused_it() {
        let (balance, now) = (Balance::new(2), Instant::now());
        let later = Some(now + SECOND);
        for _ in 0..3 {
            assert_eq!(balance.give(&[later, None], now).unwrap().index, 1);
        }
        assert_eq!(balance.give(&[later, Some(now + 2 * SECOND)], now).unwrap_err(), now + SECOND);
    }
}
