//! One request to the API server: limited in time and size, counted, remembered, and with a token that is read again once it is refused.
//!
//! What a caller concludes from an answer is its own business.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, timeout};
use tower::BoxError;

use super::{LastAnswer, VERSION, chain};
use crate::report::metrics::Metrics;

/// How long one request may take, answer included. An API server that needs longer is as good as away.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer that is read. A node with its images is some tens of KiB; a list of nodes' metadata is asked for in pages.
const ANSWER_LIMIT: usize = 16 << 20;
/// The longest that a server's Retry-After is honoured; a broken one must not silence the agent for a day.
const HOLD_LIMIT: Duration = Duration::from_mins(5);

/// What was learned from requests that are over.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) last: Option<LastAnswer>,
    pub(super) last_granted: Option<Instant>,
    pub(super) refused_since: Option<Instant>,
    pub(super) hold_until: Option<Instant>,
}

/// The values are plain and written whole: a panic elsewhere cannot have left them half-written.
pub(super) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// kube's client, made anew when its token is refused.
///
/// kube reads the token's file again once a minute by the wall clock. Where that was put back by a day the file is not read for a day,
/// and the token expires meanwhile. The new client reads the file; the request has failed, and its caller asks again.
pub(super) struct Renewable {
    config: Arc<kube::Config>,
    current: Mutex<(Client, Instant)>,
}

impl Renewable {
    pub(super) fn new(config: Arc<kube::Config>) -> Result<Arc<Self>, kube::Error> {
        let client = Client::try_from((*config).clone())?;
        let current = Mutex::new((client, Instant::now()));
        Ok(Arc::new(Self { config, current }))
    }

    fn client(&self) -> Client {
        lock(&self.current).0.clone()
    }

    /// Not for a refusal of a request that was `sent` before the client in use was made.
    fn refused(&self, sent: Instant) {
        let mut current = lock(&self.current);
        if sent >= current.1
            && let Ok(client) = Client::try_from((*self.config).clone())
        {
            *current = (client, Instant::now());
        }
    }
}

/// `raw` with a limit, a counter and a memory around each request.
pub(super) fn watched(raw: Arc<Renewable>, metrics: Metrics, memory: Arc<Mutex<Memory>>) -> Client {
    let namespace = raw.config.default_namespace.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (raw, metrics, memory) = (raw.clone(), metrics.clone(), memory.clone());
        async move {
            let (verb, sent) = (verb(request.method()), Instant::now());
            let outcome = send(&raw.client(), request, &memory).await;
            if matches!(&outcome, Ok(response) if response.status() == StatusCode::UNAUTHORIZED) {
                raw.refused(sent);
            }
            match &outcome {
                Ok(response) => metrics.asked_api(verb, response.status().as_str()),
                Err(Unanswered::TimedOut) => metrics.asked_api(verb, "timeout"),
                Err(Unanswered::Failed(_)) => metrics.asked_api(verb, "error"),
            }
            outcome.map_err(BoxError::from)
        }
    });
    Client::new(service, namespace)
}

/// The agent only ever gets, creates and patches; see contract section 7.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::POST => "create",
        Method::PATCH => "patch",
        _ => "other",
    }
}

/// No answer that could be read to its end.
#[derive(Debug)]
enum Unanswered {
    TimedOut,
    Failed(BoxError),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => write!(f, "no answer within {} s", REQUEST_LIMIT.as_secs()),
            Self::Failed(error) => f.write_str(&chain(error.as_ref())),
        }
    }
}

impl std::error::Error for Unanswered {}

impl From<kube::Error> for Unanswered {
    /// Without kube's own wrapping, which is of no use to a person.
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Service(cause) => Self::Failed(cause),
            other => Self::Failed(other.into()),
        }
    }
}

async fn send(
    raw: &Client,
    request: Request<Body>,
    memory: &Mutex<Memory>,
) -> Result<Response<Full<Bytes>>, Unanswered> {
    let mut heard = false;
    // Everybody may ask for the version: it is no evidence of this agent's rights.
    let tells = request.uri().path() != VERSION;
    let exchange = async {
        let response = raw.send(request).await.map_err(Unanswered::from)?;
        let (parts, body) = response.into_parts();
        if tells {
            lock(memory).judged(parts.status.as_u16());
        }
        lock(memory).answered(retry_after(&parts.headers));
        heard = true;
        let body = Limited::new(body, ANSWER_LIMIT)
            .collect()
            .await
            .map_err(Unanswered::Failed)?;
        Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
    };
    let outcome = timeout(REQUEST_LIMIT, exchange)
        .await
        .unwrap_or(Err(Unanswered::TimedOut));
    if !heard {
        lock(memory).last = Some(LastAnswer {
            ok: false,
            at: Instant::now(),
        });
    }
    outcome
}

impl Memory {
    /// What the code of an answer shows of this agent's rights.
    fn judged(&mut self, code: u16) {
        let now = Instant::now();
        match code {
            200..300 => (self.last_granted, self.refused_since) = (Some(now), None),
            401 | 403 => self.refused_since = self.refused_since.or(Some(now)),
            _ => {}
        }
    }

    fn answered(&mut self, retry_after: Option<Duration>) {
        let now = Instant::now();
        self.last = Some(LastAnswer { ok: true, at: now });
        if let Some(hold) = retry_after {
            self.hold_until = Some(now + hold.min(HOLD_LIMIT));
        }
    }
}

/// API servers send seconds, never a date.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::super::{Api, code};
    use super::*;

    /// A token's file is read when a client is made and once a minute; here it changes in between.
    #[tokio::test]
    async fn a_refused_token_is_read_again_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "old").unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(async |request: Request<_>| {
                    let _: &hyper::body::Incoming = request.body();
                    let is_new = request.headers()[header::AUTHORIZATION] == "Bearer new";
                    let (code, body) = if is_new { (200, "{}") } else { (401, "") };
                    Response::builder()
                        .status(code)
                        .body(Full::new(Bytes::from(body)))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
        config.auth_info.token_file = Some(file.path().to_str().unwrap().to_owned());
        let api = Api::new(config, "node1", &Metrics::new()).unwrap();
        let ask = async || {
            let request = Request::get("/api/v1/nodes/node1")
                .body(Vec::new())
                .unwrap();
            api.client().request::<serde_json::Value>(request).await
        };
        std::fs::write(&file, "new").unwrap();
        assert_eq!(
            code(&ask().await.unwrap_err()),
            Some(401),
            "the one that was read"
        );
        assert!(ask().await.is_ok());
    }
}
