//! One request and its answer, with as many tries as that takes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER};
use tokio::time::Instant;
use wire::ErrorBody;

use crate::endpoint::Endpoint;
use crate::retry::{Failure, MAX_BROKEN};
use crate::{Error, RemoteVae, proxy};

/// Told of each try that failed before another one.
pub(crate) type OnRetry = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// Told of each sentence of a server about a request that it answered all the same.
pub(crate) type OnWarning = Arc<dyn Fn(&str) + Send + Sync>;

/// The header that such a sentence comes in.
const WARNING: &str = "x-warning";

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
    /// Bytes of an answer at most.
    pub(crate) max_answer: usize,
}

/// Bytes of a refusal that are read at most: it is one sentence.
const MAX_REFUSAL: usize = 64 << 10;

impl Connection {
    /// Sends it once and reads the answer to its end.
    async fn send(&self, exchange: &Exchange) -> Result<(HeaderMap, Bytes), Error> {
        let mut response = self
            .http
            .post(self.endpoint.with_query(&exchange.query))
            .header(CONTENT_TYPE, exchange.content_type)
            .header(ACCEPT, exchange.accept)
            .body(exchange.body.clone())
            .send()
            .await
            .map_err(|error| self.transport(&error))?;
        if response.status().is_success() {
            let headers = std::mem::take(response.headers_mut());
            let body = self.body(&mut response, exchange.max_answer).await?;
            let Body::Whole(body) = body else {
                return Err(Error::Answer(format!(
                    "it has more than {} MiB, which is more than anything that was requested can be",
                    exchange.max_answer >> 20
                )));
            };
            return Ok((headers, body));
        }
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER).and_then(|text| pause(text, header(DATE)));
        let location = header(LOCATION).filter(|_| status.is_redirection()).map(str::to_owned);
        let message = match location {
            Some(location) => format!("the endpoint has moved to {location}; use that address"),
            None => self.refusal(&mut response).await?,
        };
        Err(Error::Refused { status: status.as_u16(), message, retry_after })
    }

    /// What follows the head of an answer, `limit` bytes of it at most.
    async fn body(&self, response: &mut Response, limit: usize) -> Result<Body, Error> {
        let announced = response.content_length().unwrap_or(0);
        if announced > limit as u64 {
            return Ok(Body::Beginning(Bytes::new()));
        }
        let mut body = BytesMut::with_capacity(announced as usize);
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if chunk.len() > limit - body.len() {
                return Ok(Body::Beginning(body.freeze()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Body::Whole(body.freeze()))
    }

    /// The sentence of a refusal.
    async fn refusal(&self, response: &mut Response) -> Result<String, Error> {
        let status = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (Body::Whole(body) | Body::Beginning(body)) = self.body(response, MAX_REFUSAL).await?;
        Ok(proxy::reason(status, content_type.as_deref(), &body)
            .unwrap_or_else(|| ErrorBody::read(&body).error))
    }

    fn transport(&self, error: &reqwest::Error) -> Error {
        Error::transport(&self.endpoint, error)
    }

    /// A document of the same server that is read as a whole, or `None` where there is no such document.
    pub(crate) async fn document(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let request = self.http.get(self.endpoint.at(path)).timeout(DOCUMENT_TIMEOUT);
        let mut response = request.send().await.map_err(|error| self.transport(&error))?;
        if !response.status().is_success() {
            return Ok(None);
        }
        Ok(match self.body(&mut response, MAX_DOCUMENT).await? {
            Body::Whole(body) => Some(body),
            Body::Beginning(_) => None,
        })
    }
}

/// How long a document may take that is nice to have.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of such a document.
const MAX_DOCUMENT: usize = 4 << 20;

/// What of a body has been read.
enum Body {
    Whole(Bytes),
    /// There was more than allowed.
    Beginning(Bytes),
}

/// What `Retry-After` says: a number of seconds or a date (RFC 9110, 10.2.3). A date is measured by the server's own
/// clock where it tells its `Date`; one that has passed means now.
fn pause(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = retry_after.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let when = httpdate::parse_http_date(retry_after.trim()).ok()?;
    let now = date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(SystemTime::now);
    Some(when.duration_since(now).unwrap_or(Duration::ZERO))
}

impl Connection {
    /// Asks for what is at a path, once. Any answer but 200 is an error.
    pub(crate) async fn probe(&self, path: &str) -> Result<(), Error> {
        let probe = self.http.get(self.endpoint.at(path));
        let mut response = probe.send().await.map_err(|error| self.transport(&error))?;
        match response.status().as_u16() {
            200 => Ok(()),
            status => {
                let message = self.refusal(&mut response).await?;
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
            if let (Ok((headers, _)), Some(on_warning)) = (&result, &self.on_warning) {
                let sentences = headers.get_all(WARNING).iter().filter_map(|value| value.to_str().ok());
                sentences.for_each(|sentence| on_warning(sentence));
            }
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
            _ if busy => now,
            _ => self.balance.waited_since(patience, now),
        };
        trouble.since = Some((busy, since));
        // Endpoints that are now full and now away do not lengthen it: the longer of the two is for all of it.
        let first = *trouble.first.get_or_insert(now);
        let longest = self.retry.patience.max(self.retry.busy_patience);
        let end = (since + patience).min(first + longest);
        // When another try would be possible: at once, if there is an endpoint that has not failed.
        let again = self.balance.when(&trouble.not_before, now);
        (again <= end && patience > Duration::ZERO).then(|| again - now)
    }
}

/// What has befallen one request so far.
struct Trouble {
    /// When it may go to each endpoint again.
    not_before: Vec<Option<Instant>>,
    /// Since when the endpoints are busy (true) or cannot be reached (false).
    since: Option<(bool, Instant)>,
    /// When the first try failed.
    first: Option<Instant>,
    tries: u32,
    broken: u32,
}

impl Trouble {
    fn new(endpoints: usize) -> Self {
        Self { not_before: vec![None; endpoints], since: None, first: None, tries: 0, broken: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three forms of a date are the examples of RFC 9110, 5.6.7.
    #[test]
    fn a_pause_is_a_number_of_seconds_or_a_date() {
        let seconds = |text, date| pause(text, date).map(|pause| pause.as_secs());
        assert_eq!(seconds("120", None), Some(120));
        let now = Some("Sun, 06 Nov 1994 08:49:30 GMT");
        for date in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(seconds(date, now), Some(7), "{date}");
            assert_eq!(seconds(date, None), Some(0), "it has passed");
        }
        let in_a_minute = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        assert!((58..=60).contains(&seconds(&in_a_minute, None).unwrap()));
        for nonsense in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(pause(nonsense, now), None, "{nonsense}");
        }
    }
}
