//! When to try again, and for how long.

use std::time::Duration;

use crate::Error;

/// The answers in a row that may break off before a request is given up. It limits what a request that brings its
/// server down can do, and one whose body the server does not want to read to its end.
pub(crate) const MAX_BROKEN: u32 = 4;

/// How patient a client is with an endpoint that cannot be reached or has no place.
///
/// Every request of this client may be repeated: to decode the same latents twice gives the same picture and changes
/// nothing. Tried again are connections that fail or break, and the answers 429, 502, 503 and 504; a server that says
/// when to come back (`Retry-After`) is not asked before. A request that is refused for any other reason, or takes
/// longer than [`Builder::timeout`](crate::Builder::timeout), would fail again, so it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub(crate) patience: Duration,
    pub(crate) first_contact: Duration,
    pub(crate) busy_patience: Duration,
    pub(crate) first_wait: Duration,
    pub(crate) longest_wait: Duration,
}

impl Default for Retry {
    /// An endpoint that has answered before is waited for during a minute; one that never did for a second, as it is
    /// probably misspelt. A server that is full may say so for ten minutes.
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            first_contact: Duration::from_secs(1),
            busy_patience: Duration::from_secs(600),
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// The first failure is final.
    pub fn never() -> Self {
        let zero = Duration::ZERO;
        Self { patience: zero, first_contact: zero, busy_patience: zero, ..Self::default() }
    }

    /// How long a request waits for an endpoint that cannot be reached, from its first failure on; also for one that
    /// never answered before. Requests that meet the same outage share its beginning, and give up together. No request is
    /// tried for longer than the longer of this and [`Retry::busy_patience`].
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self.first_contact = patience;
        self
    }

    /// How long a request comes back to a server that is there but has no place (429, 503), from the first refusal on.
    pub fn busy_patience(mut self, patience: Duration) -> Self {
        self.busy_patience = patience;
        self
    }

    /// The pause after so many failures in a row, from 1: it doubles each time up to ten seconds, and a random part
    /// of its second half is left out, so that clients who failed together do not come back together.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.first_wait.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest_wait).mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// The pause that a server asks for, and up to a quarter more, for the same reason. Never less.
    pub(crate) fn asked(&self, retry_after: Duration) -> Duration {
        retry_after.saturating_add(retry_after.min(self.longest_wait).mul_f64(0.25 * fastrand::f64()))
    }
}

/// What a failure says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is there and has no place; it may have said when to come back.
    Busy(Option<Duration>),
    /// It cannot be reached, or something in front of it cannot.
    Down,
    /// It was reached, but its answer never came to an end.
    Broken,
    /// It did not answer in time: no use to ask it again, but another one may be faster.
    Slow,
    /// The request is at fault, or the answer.
    Final,
}

impl Failure {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Connect { .. } | Error::Refused { status: 502 | 504, .. } => Self::Down,
            Error::Connection { .. } => Self::Broken,
            Error::Timeout { .. } => Self::Slow,
            Error::Refused { status: 429 | 503, retry_after, .. } => Self::Busy(*retry_after),
            _ => Self::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let retry = Retry::default();
        for (failures, longest) in [(1, 200), (2, 400), (3, 800), (6, 6400), (7, 10_000), (u32::MAX, 10_000)]
        {
            let pauses: Vec<_> = (0..50).map(|_| retry.pause(failures)).collect();
            let longest = Duration::from_millis(longest);
            assert!(pauses.iter().all(|pause| *pause >= longest / 2 && *pause <= longest), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
        }
    }

    #[test]
    fn nobody_comes_back_earlier_than_asked() {
        for seconds in [0, 1, 7, 3600] {
            let asked = Duration::from_secs(seconds);
            for _ in 0..50 {
                let pause = Retry::default().asked(asked);
                assert!(pause >= asked && pause <= asked + Duration::from_millis(2500), "{pause:?}");
            }
        }
    }

    #[test]
    fn only_what_may_go_away_is_tried_again() {
        let refused =
            |status| Error::Refused { status, message: String::new(), retry_after: Some(Duration::ZERO) };
        for status in [429, 503] {
            assert_eq!(Failure::of(&refused(status)), Failure::Busy(Some(Duration::ZERO)));
        }
        for status in [502, 504] {
            assert_eq!(Failure::of(&refused(status)), Failure::Down);
        }
        for status in [400, 401, 404, 413, 422, 500] {
            assert_eq!(Failure::of(&refused(status)), Failure::Final);
        }
        assert_eq!(Failure::of(&Error::Answer(String::new())), Failure::Final);
    }
}
