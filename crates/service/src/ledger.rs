//! One account of the memory that jobs hold, by pool. A [`Token`] lives as long as the bytes that it stands for.
//!
//! Requests have a bound of their own, so that what waits never takes what work needs. Work begins when what all pools
//! hold leaves room for it: answers that clients have not read yet hold it up, until they are read or given up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admission::Admission;
use crate::budget::size;
use crate::failure::Failure;

/// After how long another try makes sense: bodies come and go quickly.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes that the values of an output take at most while its answer is written, for each of them: as float32, put in
/// another order, and as what they are written to.
pub(crate) const WRITING: usize = 9;

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Bodies of requests on their way or waiting, and what was read from them.
    Requests,
    /// What the models work with, and what their engines keep for the next work.
    Work,
    /// Answers that are being written or that their clients have not read yet.
    Answers,
}

/// The account.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Inner>);

struct Inner {
    /// Bytes that all requests may have.
    requests: usize,
    /// Bytes of all pools, beyond which nothing is taken any more.
    all: usize,
    limit: Option<usize>,
    held: Mutex<Held>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    requests: usize,
    work: usize,
    answers: usize,
}

impl Held {
    fn all(&self) -> usize {
        self.requests.saturating_add(self.work).saturating_add(self.answers)
    }

    fn pool(&mut self, pool: Pool) -> &mut usize {
        match pool {
            Pool::Requests => &mut self.requests,
            Pool::Work => &mut self.work,
            Pool::Answers => &mut self.answers,
        }
    }
}

/// Bytes of memory, counted until this is dropped.
pub struct Token {
    ledger: Ledger,
    pool: Pool,
    bytes: usize,
}

impl Ledger {
    pub(crate) fn new(admission: &Admission) -> Self {
        let requests = admission.budget.bodies;
        let all = admission.room().map_or(usize::MAX, |room| room.saturating_add(requests));
        let limit = admission.budget.limit;
        Self(Arc::new(Inner { requests, all, limit, held: Mutex::default() }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that a pool holds now.
    pub(crate) fn bytes(&self, pool: Pool) -> usize {
        *self.held().pool(pool)
    }

    /// Nothing yet, in a pool.
    pub(crate) fn token(&self, pool: Pool) -> Token {
        Token { ledger: self.clone(), pool, bytes: 0 }
    }
}

impl Token {
    /// Makes sure that a request holds at least so many bytes. One alone may always have as many as all may.
    ///
    /// # Errors
    /// [`Busy`](crate::FailureKind::Busy) when others hold too much, [`TooLarge`](crate::FailureKind::TooLarge) when it
    /// would be too much for this one alone.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let Inner { requests, limit, .. } = *self.ledger.0;
        if bytes > requests {
            return Err(Failure::too_large(format!(
                "the body has {bytes} bytes, and all bodies together may have {requests}, of {} in all (--memory-limit): send \
                 less",
                size(limit.unwrap_or(usize::MAX))
            )));
        }
        if self.try_grow(bytes) {
            return Ok(());
        }
        let Held { requests: held, answers, .. } = *self.ledger.held();
        let message = if held.saturating_add(bytes.saturating_sub(self.bytes)) > requests {
            format!(
                "the bodies of requests hold {} of the {} that they may have together (--max-pending, --memory-limit): try \
                 again later",
                size(held),
                size(requests)
            )
        } else {
            format!(
                "answers that have not been read yet hold {} of the memory (--memory-limit): try again later",
                size(answers)
            )
        };
        Err(Failure::busy(message, RETRY_AFTER))
    }

    /// [`grow`](Self::grow) where there is another way if it cannot.
    pub(crate) fn try_grow(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|&more| more > 0) else { return true };
        let Inner { requests, all, .. } = *self.ledger.0;
        let mut held = self.ledger.held();
        if self.pool == Pool::Requests && held.requests.saturating_add(more) > requests
            || held.all().saturating_add(more) > all
        {
            return false;
        }
        *held.pool(self.pool) += more;
        drop(held);
        self.bytes = bytes;
        true
    }

    /// From now on it stands for so many bytes. What exists is counted, whether there is room for it or not.
    pub fn set(&mut self, bytes: usize) {
        let mut held = self.ledger.held();
        let pool = held.pool(self.pool);
        *pool = pool.saturating_sub(self.bytes).saturating_add(bytes);
        drop(held);
        self.bytes = bytes;
    }

    /// Bytes that it stands for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes of an answer, which count until the last part of them is gone.
pub(crate) struct Counted {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) _token: Token,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::OnLarge;
    use crate::budget::Budget;
    use crate::failure::FailureKind;

    const MIB: usize = 1 << 20;

    /// Requests may have 100 MiB, all together 300.
    fn ledger(on_large: OnLarge) -> Ledger {
        // The process itself takes 16.
        let budget = Budget { limit: Some(316 * MIB), bodies: 100 * MIB, copied: 0 };
        Ledger::new(&Admission { budget, on_large })
    }

    #[test]
    fn what_requests_hold_is_bounded_and_comes_back() {
        let ledger = ledger(OnLarge::Lean);
        let token = || ledger.token(Pool::Requests);
        let (mut one, mut other) = (token(), token());
        one.grow(60 * MIB).unwrap();
        one.grow(MIB).unwrap();
        assert_eq!(ledger.bytes(Pool::Requests), 60 * MIB, "it does not shrink of itself");
        other.grow(40 * MIB).unwrap();
        one.grow(60 * MIB).unwrap();
        let full = one.grow(61 * MIB).unwrap_err();
        assert_eq!(full.kind, FailureKind::Busy);
        assert!(full.message.contains("--max-pending"), "{}", full.message);
        assert_eq!(other.grow(101 * MIB).unwrap_err().kind, FailureKind::TooLarge);
        drop(other);
        one.grow(100 * MIB).unwrap();
        one.set(MIB);
        assert_eq!(ledger.bytes(Pool::Requests), MIB);
        drop(one);
        assert_eq!(ledger.bytes(Pool::Requests), 0);
    }

    #[test]
    fn unread_answers_keep_out_new_work_and_then_new_requests() {
        let ledger = ledger(OnLarge::Lean);
        let mut answers = ledger.token(Pool::Answers);
        answers.set(150 * MIB);
        let mut work = ledger.token(Pool::Work);
        assert!(!work.try_grow(151 * MIB));
        assert!(work.try_grow(150 * MIB));
        let mut request = ledger.token(Pool::Requests);
        let full = request.grow(MIB).unwrap_err();
        assert_eq!(full.kind, FailureKind::Busy);
        assert!(
            full.message.contains("answers that have not been read yet hold 150 MiB"),
            "{}",
            full.message
        );
        drop(answers);
        request.grow(100 * MIB).unwrap();
        assert!(work.try_grow(200 * MIB), "requests never take what work needs");
        // What exists is counted even so.
        let mut answers = ledger.token(Pool::Answers);
        answers.set(400 * MIB);
        assert!(!work.try_grow(201 * MIB) && !request.try_grow(100 * MIB + 1));
        answers.set(0);
        work.set(0);
        assert!(work.try_grow(200 * MIB));
    }

    #[test]
    fn whoever_tries_in_any_case_is_not_bounded() {
        let ledger = ledger(OnLarge::Exact);
        let mut work = ledger.token(Pool::Work);
        assert!(work.try_grow(usize::MAX / 2));
        ledger.token(Pool::Requests).grow(100 * MIB).unwrap();
        assert_eq!(ledger.token(Pool::Requests).grow(101 * MIB).unwrap_err().kind, FailureKind::TooLarge);
    }

    #[test]
    fn the_bytes_of_an_answer_count_until_the_last_part_of_them_is_gone() {
        let ledger = ledger(OnLarge::Lean);
        let mut token = ledger.token(Pool::Answers);
        token.set(10);
        let mut bytes = bytes::Bytes::from_owner(Counted { bytes: vec![7; 10].into(), _token: token });
        let first = bytes.split_to(4);
        drop(bytes);
        assert_eq!((ledger.bytes(Pool::Answers), &first[..]), (10, &[7; 4][..]));
        drop(first);
        assert_eq!(ledger.bytes(Pool::Answers), 0);
    }
}
