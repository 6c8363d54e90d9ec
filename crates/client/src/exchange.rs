//! One request and its answer, with as many tries as that takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use tokio::time::Instant;
use wire::ErrorBody;

use crate::endpoint::Endpoint;
use crate::retry::{Failure, MAX_BROKEN};
use crate::{Error, RemoteVae, proxy};

/// Told of each try that failed before another one.
pub(crate) type OnRetry = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// One endpoint, with the connections to it that are kept.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
}

/// What is sent, whichever endpoint gets it. It must be safe to send it twice.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) query: String,
    pub(crate) content_type: &'static str,
    pub(crate) accept: &'static str,
    pub(crate) body: Bytes,
}

impl Connection {
    /// Sends it once and reads the answer to its end.
    async fn send(&self, exchange: &Exchange) -> Result<(HeaderMap, Bytes), Error> {
        let transport = |error: reqwest::Error| Error::transport(&self.endpoint, &error);
        let mut response = self
            .http
            .post(self.endpoint.with_query(&exchange.query))
            .header(CONTENT_TYPE, exchange.content_type)
            .header(ACCEPT, exchange.accept)
            .body(exchange.body.clone())
            .send()
            .await
            .map_err(transport)?;
        if response.status().is_success() {
            let headers = std::mem::take(response.headers_mut());
            return Ok((headers, response.bytes().await.map_err(transport)?));
        }
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let message = match header(LOCATION).filter(|_| status.is_redirection()) {
            Some(location) => format!("the endpoint has moved to {location}; use that address"),
            None => {
                let content_type = header(CONTENT_TYPE).map(str::to_owned);
                let body = response.bytes().await.map_err(transport)?;
                proxy::reason(status.as_u16(), content_type.as_deref(), &body)
                    .unwrap_or_else(|| ErrorBody::read(&body).error)
            }
        };
        Err(Error::Refused { status: status.as_u16(), message, retry_after })
    }
}

impl Connection {
    /// Asks for what is at a path, once. Any answer but 200 is an error.
    pub(crate) async fn probe(&self, path: &str) -> Result<(), Error> {
        let transport = |error: reqwest::Error| Error::transport(&self.endpoint, &error);
        let response = self.http.get(self.endpoint.at(path)).send().await.map_err(transport)?;
        match response.status().as_u16() {
            200 => Ok(()),
            status => {
                let body = response.bytes().await.map_err(transport)?;
                let message =
                    proxy::reason(status, None, &body).unwrap_or_else(|| ErrorBody::read(&body).error);
                Err(Error::Refused { status, message, retry_after: None })
            }
        }
    }
}

impl RemoteVae {
    /// Sends it until an endpoint answers, or patience is at its end.
    pub(crate) async fn exchange(&self, exchange: &Exchange) -> Result<(HeaderMap, Bytes), Error> {
        let mut trouble = Trouble::new(self.connections.len());
        loop {
            let given = match self.balance.give(&trouble.not_before, Instant::now()) {
                Ok(given) => given,
                Err(until) => {
                    tokio::time::sleep_until(until).await;
                    continue;
                }
            };
            let index = given.index;
            let result = match self.connections.get(index) {
                Some(connection) => connection.send(exchange).await,
                None => return Err(Error::Closed),
            };
            let failure = result.as_ref().err().map(Failure::of);
            given.ended(failure, &self.retry, Instant::now());
            let (Err(error), Some(failure)) = (&result, failure) else { return result };
            let Some(pause) = self.pause(&mut trouble, index, failure) else { return result };
            if let Some(on_retry) = &self.on_retry {
                on_retry(error, pause);
            }
        }
    }

    /// How long to wait after a failure, `None` to give up.
    fn pause(&self, trouble: &mut Trouble, index: usize, failure: Failure) -> Option<Duration> {
        let now = Instant::now();
        let others = self.connections.len() > 1;
        let (busy, patience) = match failure {
            Failure::Final => return None,
            Failure::Slow if !others => return None,
            Failure::Busy(_) => (true, self.retry.busy_patience),
            Failure::Down | Failure::Broken | Failure::Slow if self.balance.reached() => {
                (false, self.retry.patience)
            }
            Failure::Down | Failure::Broken | Failure::Slow => (false, self.retry.first_contact),
        };
        trouble.tries += 1;
        if matches!(failure, Failure::Broken | Failure::Slow) {
            trouble.broken += 1;
            if trouble.broken > MAX_BROKEN {
                return None;
            }
        }
        if let Failure::Busy(retry_after) = failure {
            let pause = match retry_after {
                // A server that says "at once" is not asked without end.
                Some(asked) => self.retry.asked(asked).max(self.retry.pause(1)),
                None => self.retry.pause(trouble.tries),
            };
            if let Some(place) = trouble.not_before.get_mut(index) {
                *place = Some(now + pause);
            }
        }
        let since = match trouble.since {
            Some((kind, since)) if kind == busy => since,
            _ => now,
        };
        trouble.since = Some((busy, since));
        // When another try would be possible: at once, if there is an endpoint that has not failed.
        let again = self.balance.when(&trouble.not_before, now);
        (again <= since + patience && patience > Duration::ZERO).then(|| again - now)
    }
}

/// What has befallen one request so far.
struct Trouble {
    /// When it may go to each endpoint again.
    not_before: Vec<Option<Instant>>,
    /// Since when the endpoints are busy (true) or cannot be reached (false).
    since: Option<(bool, Instant)>,
    tries: u32,
    broken: u32,
}

impl Trouble {
    fn new(endpoints: usize) -> Self {
        Self { not_before: vec![None; endpoints], since: None, tries: 0, broken: 0 }
    }
}
