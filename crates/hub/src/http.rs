//! Questions to the hub, and what it answers.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::runtime::{self, Runtime};

use crate::repo::{encoded, encoded_path, is_safe_name};
use crate::{HubError, Listing, Repo, Settings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Renamed repositories lead to their new name in one step.
const MAX_REDIRECTS: usize = 5;

/// A client of the hub.
pub(crate) struct Http {
    runtime: Runtime,
    client: Client,
    /// Follows no redirection: the headers that say what a file is come with the first answer.
    asking: Client,
    endpoint: Url,
    token: Option<String>,
}

/// What the hub says of a file before it is downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Names the content: its SHA-256 for large files, otherwise its git hash.
    pub(crate) etag: String,
    /// Bytes of the file.
    pub(crate) size: u64,
}

/// A body on its way.
pub(crate) struct Body {
    response: Response,
    /// The first byte of it in the file.
    pub(crate) start: u64,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Why an answer did not come. Some reasons pass.
pub(crate) enum Failure {
    /// Another try may help.
    Passing(String),
    Final(HubError),
}

impl Http {
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let wrong = |reason: String| HubError::Endpoint { endpoint: settings.endpoint.clone(), reason };
        let endpoint =
            Url::parse(settings.endpoint.trim_end_matches('/')).map_err(|error| wrong(error.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host().is_none() {
            return Err(wrong("it must begin with https:// or http://".to_owned()));
        }
        // Fails only when the program has chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("remote-vae/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT);
            // Without this, a system that has no certificates installed could not even speak http to a mirror.
            if endpoint.scheme() == "http" { builder.tls_certs_only([]) } else { builder }
        };
        let built = |client: reqwest::Result<Client>| client.map_err(|error| wrong(innermost(&error)));
        Ok(Self {
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| wrong(error.to_string()))?,
            client: built(builder().redirect(Policy::limited(10)).build())?,
            asking: built(builder().redirect(Policy::none()).build())?,
            token: settings.token.clone(),
            endpoint,
        })
    }

    /// The files of `repo`.
    pub(crate) fn list(&self, repo: &Repo) -> Result<Listing, HubError> {
        let url = self.url(&format!("api/models/{}/revision/{}", repo.id(), encoded(repo.revision())))?;
        let body = self.retrying(&url, || {
            self.runtime.block_on(async {
                let response = self.send(&self.client, Method::GET, url.clone(), None).await?;
                let response = self.accepted(response, repo, None)?;
                response.bytes().await.map_err(|error| passing(&error))
            })
        })?;
        let info: Info = serde_json::from_slice(&body)
            .map_err(|error| HubError::Answer(format!("{url} is no description of a repository: {error}")))?;
        if !is_safe_name(&info.sha) {
            return Err(HubError::Answer(format!("{url} names the commit {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Listing { commit: info.sha, files })
    }

    /// Where `file` of `repo` at `commit` is.
    pub(crate) fn file_url(&self, repo: &Repo, commit: &str, file: &str) -> Result<Url, HubError> {
        self.url(&format!("{}/resolve/{}/{}", repo.id(), encoded(commit), encoded_path(file)))
    }

    /// What the file at `url` is, `name` for whoever asks again. Redirections are followed until an answer says so: within
    /// the hub for renamed repositories, from a mirror to the hub. The one to the storage says it itself, since it is the
    /// hub that knows.
    pub(crate) fn metadata(
        &self,
        repo: &Repo,
        url: &Url,
        file: &str,
        commit: &str,
    ) -> Result<Metadata, HubError> {
        let headers = self.retrying(url, || {
            self.runtime.block_on(async {
                let mut url = url.clone();
                for _ in 0..MAX_REDIRECTS {
                    let response = self.send(&self.asking, Method::HEAD, url.clone(), None).await?;
                    let next = response.status().is_redirection().then(|| next(&url, response.headers()));
                    match next.flatten() {
                        // The storage's own headers say nothing of the hub's names and sizes.
                        Some(_) if response.headers().contains_key("x-linked-etag") => {
                            return Ok(response.headers().clone());
                        }
                        Some(next) => url = next,
                        None => return Ok(self.accepted(response, repo, Some(file))?.headers().clone()),
                    }
                }
                Err(Failure::Final(HubError::Answer(format!("{url} leads on and on"))))
            })
        })?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str())).map(plain_etag);
        let size = text("x-linked-size").or_else(|| text(CONTENT_LENGTH.as_str()));
        let Some(size) = size.and_then(|size| size.parse().ok()) else {
            return Err(HubError::Answer(format!(
                "{url} does not say how long the file is (it says {size:?}); is {} a hub?",
                self.endpoint
            )));
        };
        // A mirror may have no tag, or one that cannot be the name of a file: the commit and the path name the content too.
        let etag = etag.filter(|etag| is_safe_name(etag)).map(str::to_owned);
        let etag = etag.unwrap_or_else(|| crate::download::name_of(&[repo.id(), commit, file]));
        Ok(Metadata { etag, size })
    }

    /// The content at `url` from the byte `start` on; or from an earlier one, if the server knows no ranges.
    pub(crate) fn open(&self, repo: &Repo, url: &Url, file: &str, start: u64) -> Result<Body, Failure> {
        let ask = async |range: Option<u64>| {
            let response = self.send(&self.client, Method::GET, url.clone(), range).await?;
            self.accepted(response, repo, Some(file))
        };
        self.runtime.block_on(async {
            let response = ask((start > 0).then_some(start)).await?;
            if response.status() != StatusCode::PARTIAL_CONTENT {
                return Ok(Body { response, start: 0 });
            }
            match first_byte(response.headers()) {
                Some(start) => Ok(Body { response, start }),
                // It sends a part and does not say which: the whole is what can be trusted.
                None => Ok(Body { response: ask(None).await?, start: 0 }),
            }
        })
    }

    /// The next bytes of a body, `None` after the last.
    pub(crate) fn next(&self, body: &mut Body) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
        self.runtime.block_on(body.response.chunk()).map_err(|error| passing(&error))
    }

    /// Runs `ask` again while its failures are of the kind that passes, with longer and longer pauses.
    fn retrying<T>(&self, url: &Url, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, HubError> {
        let mut pauses = Pauses::new();
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason)) => pauses.wait(url, reason, 0)?,
            }
        }
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        url: Url,
        start: Option<u64>,
    ) -> Result<Response, Failure> {
        // reqwest drops it where a redirection leads to another host; those of `metadata` are followed by hand.
        let token = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin());
        let mut request = client.request(method, url);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(start) = start {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        request.send().await.map_err(|error| passing(&error))
    }

    /// The answer, if it is a good one; otherwise what its status and the hub's own words for it mean.
    fn accepted(&self, response: Response, repo: &Repo, file: Option<&str>) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        let (id, hub) = (repo.id(), self.endpoint.as_str().trim_end_matches('/'));
        let missing = match file {
            Some(file) => format!("{id} has no file {file} at {hub}"),
            None => format!("there is no model repository {id} with a revision {} at {hub}", repo.revision()),
        };
        let error = match (status.as_u16(), header("x-error-code")) {
            (_, "GatedRepo") => HubError::Denied(format!(
                "{id} is open only to those who accepted its conditions: do so at {hub}/{id}, then set HF_TOKEN to an \
                 access token of that account"
            )),
            (401 | 403, _) if self.token.is_some() => HubError::Denied(format!(
                "{hub} does not show {id} to the owner of this token (status {status}): the name may be wrong, or HF_TOKEN \
                 that of another account"
            )),
            (401 | 403, _) => HubError::Denied(format!(
                "there is no public model repository {id} at {hub}: the name may be wrong, or it is private and needs \
                 an access token in HF_TOKEN"
            )),
            (404, _) => HubError::NotFound(missing),
            (408 | 429 | 500.., _) => return Err(Failure::Passing(format!("the server says {status}"))),
            _ => HubError::Answer(format!("{} says {status} {}", response.url(), header("x-error-message"))),
        };
        Err(Failure::Final(error))
    }

    fn url(&self, path: &str) -> Result<Url, HubError> {
        let url = format!("{}/{path}", self.endpoint.as_str().trim_end_matches('/'));
        Url::parse(&url).map_err(|error| HubError::Endpoint { endpoint: url, reason: error.to_string() })
    }
}

/// Longer and longer pauses between tries, and an end.
pub(crate) struct Pauses {
    tries: u32,
}

impl Pauses {
    const MAX_TRIES: u32 = 5;

    pub(crate) fn new() -> Self {
        Self { tries: 0 }
    }

    /// Waits before the next try. `kept` bytes of the file are there.
    ///
    /// # Errors
    /// There were enough.
    pub(crate) fn wait(&mut self, url: &Url, reason: String, kept: u64) -> Result<(), HubError> {
        self.tries += 1;
        if self.tries >= Self::MAX_TRIES {
            // A redirected URL may carry keys in its query.
            let mut url = url.clone();
            url.set_query(None);
            return Err(HubError::Network { url: url.into(), reason, kept });
        }
        let pause = Duration::from_millis(100 << self.tries);
        tracing::debug!("{reason}; trying again in {pause:?}");
        std::thread::sleep(pause);
        Ok(())
    }
}

/// Where a redirection leads.
fn next(url: &Url, headers: &HeaderMap) -> Option<Url> {
    url.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

/// A tag without what is part of the header's syntax: quotes, and the mark of weak ones.
fn plain_etag(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Of `bytes 12-99/100`, the 12.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// A connection that broke may be whole the next time; a request that cannot be written may not.
fn passing(error: &reqwest::Error) -> Failure {
    if error.is_builder() {
        return Failure::Final(HubError::Denied(format!("HF_TOKEN cannot be sent: {}", innermost(error))));
    }
    let reason = innermost(error);
    // The resolver's own words name no host and no way out.
    let unknown_host = error.is_connect() && (is_of_resolver(error) || reason.contains("lookup address"));
    if let (true, Some(host)) = (unknown_host, error.url().and_then(Url::host_str)) {
        return Failure::Passing(format!(
            "the address of {host} cannot be found ({reason}); is this machine online, and HF_ENDPOINT right?"
        ));
    }
    Failure::Passing(reason)
}

/// Whether an error comes from looking up a name.
fn is_of_resolver(error: &dyn std::error::Error) -> bool {
    let mut error = Some(error);
    while let Some(current) = error {
        if current.to_string().contains("dns error") {
            return true;
        }
        error = current.source();
    }
    false
}

/// The first cause of an error: the outer ones only say that there was one, and may contain a URL with keys.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_in_every_form_of_the_header() {
        for (etag, expected) in [
            ("\"abc\"", "abc"),
            ("W/\"abc\"", "abc"),
            ("abc", "abc"),
            (" \"abc\" ", "abc"),
            ("\"W/abc\"", "W/abc"),
            ("\"\"", ""),
        ] {
            assert_eq!(plain_etag(etag), expected, "{etag}");
        }
    }
}
