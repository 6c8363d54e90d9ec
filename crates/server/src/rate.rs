//! How often a client may send work.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use service::Client;

/// Clients whose rates are remembered before those that rest are forgotten.
const REMEMBERED: usize = 10_000;

/// How many requests a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in each period, all of which may come at once.
    pub requests: NonZeroU32,
    /// The period.
    pub period: Duration,
}

impl std::fmt::Display for RateLimit {
    /// As it is read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.period.as_secs() {
            1 => write!(f, "{}/s", self.requests),
            60 => write!(f, "{}/m", self.requests),
            3600 => write!(f, "{}/h", self.requests),
            seconds => write!(f, "{} in {seconds} seconds", self.requests),
        }
    }
}

impl FromStr for RateLimit {
    type Err = String;

    /// `10/s`, `60/m` or `500/h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("expected requests in a second, minute or hour, such as 60/m, but found {text:?}");
        let (requests, period) = text.split_once('/').ok_or_else(wrong)?;
        let period = match period {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let requests = requests.parse().map_err(|_| wrong())?;
        Ok(Self { requests, period: Duration::from_secs(period) })
    }
}

/// What each client has sent of late.
pub(crate) struct Rates {
    limiter: DefaultKeyedRateLimiter<Client>,
    /// Requests since clients were last forgotten, and how many there are until the next time.
    requests: AtomicUsize,
    until_next: AtomicUsize,
}

impl Rates {
    pub(crate) fn new(limit: RateLimit) -> Self {
        // A period is never zero, nor are the requests.
        let each = limit.period / limit.requests.get();
        let quota = Quota::with_period(each.max(Duration::from_nanos(1)))
            .unwrap_or(Quota::per_second(limit.requests));
        let limiter = RateLimiter::keyed(quota.allow_burst(limit.requests));
        Self { limiter, requests: AtomicUsize::new(0), until_next: AtomicUsize::new(REMEMBERED) }
    }

    /// Counts a request of this client.
    ///
    /// # Errors
    /// After how long it may send one, if that is not now.
    pub(crate) fn count(&self, client: Client) -> Result<(), Duration> {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        // To forget, all clients are looked at. At least as many requests as there were clients come between two times, so
        // that each one pays for a look at two clients at most, however many there are.
        if requests >= self.until_next.load(Ordering::Relaxed) {
            self.requests.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
            self.until_next.store(self.limiter.len().max(REMEMBERED), Ordering::Relaxed);
        }
        self.limiter
            .check_key(&client)
            .map_err(|not_yet| not_yet.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn rates() {
        let rate: RateLimit = "60/m".parse().unwrap();
        assert_eq!((rate.requests.get(), rate.period), (60, Duration::from_secs(60)));
        for text in ["10/s", "60/m", "500/h"] {
            assert_eq!(text.parse::<RateLimit>().unwrap().to_string(), text);
        }
        for wrong in ["60", "0/s", "-1/s", "60/d", "/s", "x/s"] {
            assert!(wrong.parse::<RateLimit>().unwrap_err().contains("60/m"), "{wrong}");
        }
    }

    #[test]
    fn clients_that_rest_are_forgotten() {
        // Each is at rest again after a microsecond.
        let rates = Rates::new(RateLimit { requests: NonZeroU32::MAX, period: Duration::from_secs(4000) });
        for number in 0..10 * REMEMBERED as u64 {
            rates.count(Client::Key(number)).unwrap();
        }
        assert!(rates.limiter.len() < 3 * REMEMBERED, "{}", rates.limiter.len());
    }

    #[test]
    fn many_clients_cost_nobody_time() {
        // None of them is forgotten for half an hour. With a look at all of them for each request it takes minutes.
        let (rates, begun) = (Rates::new("2/h".parse().unwrap()), Instant::now());
        let many = 300_000;
        for number in 0..many {
            rates.count(Client::Key(number)).unwrap();
        }
        assert_eq!(rates.limiter.len(), many as usize);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        // All are still remembered.
        rates.count(Client::Key(0)).unwrap();
        let wait = rates.count(Client::Key(0)).unwrap_err();
        assert!(wait > Duration::from_secs(1700), "{wait:?}");
    }
}
