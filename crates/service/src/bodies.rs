//! The memory that the bodies of requests hold together, on their way or waiting, and its bound.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::budget::{Budget, size};
use crate::failure::Failure;

/// Bytes of one permit; a semaphore counts to 2³² − 1 in one step at most.
const UNIT: usize = 1024;

/// After how long another try makes sense: bodies come and go quickly.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory of all bodies.
pub struct Bodies {
    budget: Budget,
    free: Semaphore,
}

/// The memory of one body, for as long as this lives.
pub struct Held<'a> {
    bodies: &'a Bodies,
    permit: Option<SemaphorePermit<'a>>,
    units: usize,
}

impl Bodies {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, free: Semaphore::new(units(budget.bodies)) }
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        units(self.budget.bodies).saturating_sub(self.free.available_permits()).saturating_mul(UNIT)
    }

    /// A body that holds nothing yet.
    pub fn begin(&self) -> Held<'_> {
        Held { bodies: self, permit: None, units: 0 }
    }
}

impl Held<'_> {
    /// Makes sure that the body holds at least so many bytes.
    ///
    /// # Errors
    /// [`Busy`](crate::FailureKind::Busy) when other bodies hold too much, [`TooLarge`](crate::FailureKind::TooLarge) when it
    /// would be too much for this one alone.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let Bodies { budget, free } = self.bodies;
        let (wanted, all) = (units(bytes), units(budget.bodies));
        if wanted > all {
            let message = format!(
                "the body has {bytes} bytes, and all bodies together may have {}, of {} in all (--memory-limit): send less",
                budget.bodies,
                size(budget.limit.unwrap_or(usize::MAX))
            );
            return Err(Failure::too_large(message));
        }
        let more = u32::try_from(wanted.saturating_sub(self.units)).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        let Ok(permit) = free.try_acquire_many(more) else {
            let message = format!(
                "the bodies of requests hold {} of the {} that they may have together (--max-pending, --memory-limit): try \
                 again later",
                size(self.bodies.held()),
                size(budget.bodies)
            );
            return Err(Failure::busy(message, RETRY_AFTER));
        };
        self.units = wanted;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            held => *held = Some(permit),
        }
        Ok(())
    }
}

/// Permits for so many bytes.
fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    #[test]
    fn what_bodies_hold_is_bounded_and_comes_back() {
        let bodies = Bodies::new(Budget { limit: Some(1 << 20), bodies: 100 * UNIT, copied: 0 });
        let (mut one, mut other) = (bodies.begin(), bodies.begin());
        one.grow(60 * UNIT - 1).unwrap();
        one.grow(UNIT).unwrap();
        assert_eq!(bodies.held(), 60 * UNIT, "it never shrinks");
        other.grow(40 * UNIT).unwrap();
        one.grow(60 * UNIT).unwrap();
        let full = one.grow(61 * UNIT).unwrap_err();
        assert_eq!(full.kind, FailureKind::Busy);
        assert!(full.message.contains("--max-pending"), "{}", full.message);
        assert_eq!(other.grow(101 * UNIT).unwrap_err().kind, FailureKind::TooLarge);
        drop(other);
        one.grow(100 * UNIT).unwrap();
        drop(one);
        assert_eq!(bodies.held(), 0);
    }
}
