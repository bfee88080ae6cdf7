//! `/livez`, `/readyz`, `/metrics` and `/status` on `--listen`.
//!
//! Made to be scanned: heads are small and have to come soon, connections are few and short. When there are too many,
//! the oldest goes, so that a probe of the kubelet is answered while somebody keeps connections open.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::cluster::client::Backoff;
use crate::report::metrics::{self, Metrics};
use crate::serve::page::StatusPage;

/// A head has to be complete within this time, also that of a further request on a kept connection.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a head; more are answered with 431.
const HEAD_SIZE: usize = 16 << 10;
/// How long a connection may live, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// Connections at a time.
const CONNECTIONS: usize = 64;
/// The longest pause between two tries to bind.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the endpoints answer from.
#[derive(Clone)]
pub struct Pages {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/status` and `/readyz`.
    pub status: StatusPage,
    /// For `/livez`: whether the main loop still goes round.
    pub alive: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Serves until dropped. A port in use or an address that is not there yet is tried again and again: routes do not depend on it.
pub async fn serve(listen: SocketAddr, pages: Pages) {
    let mut backoff = Backoff::new(Duration::from_millis(500), LONGEST_PAUSE);
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                if backoff.failures() == 0 {
                    tracing::warn!(%listen, %error, "Listening failed; retrying. Routing is not affected");
                }
                sleep(backoff.failed()).await;
            }
        }
    };
    tracing::info!(%listen, "Listening");
    serve_on(listener, pages).await;
}

/// [`serve`] on a listener that is there.
pub async fn serve_on(listener: TcpListener, pages: Pages) {
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or a peer that was gone before it was accepted.
                tracing::debug!(%error, "Accepting a connection failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|task| !task.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tasks.spawn(connection(stream, pages.clone())));
        // Its request may be there already: in a burst, none is dropped before it was looked at.
        tokio::task::yield_now().await;
    }
}

async fn connection(stream: TcpStream, pages: Pages) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIMIT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "A connection ended in an error"),
        Err(_) => tracing::trace!("A connection took too long"),
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response
            .headers_mut()
            .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" if (pages.alive)() => text(StatusCode::OK, "ok\n"),
        "/livez" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the main loop has stopped\n",
        ),
        "/readyz" => match pages.status.readiness() {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n")),
        },
        "/metrics" => match pages.metrics.render() {
            Ok(metrics) => page(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/status" => match pages.status.json() {
            Some(json) => page(StatusCode::OK, "application/json", json),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "no status yet\n"),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /livez, /readyz, /metrics and /status\n",
        ),
    }
}

fn text(code: StatusCode, body: &str) -> Response<Full<Bytes>> {
    page(code, "text/plain; charset=utf-8", body.to_owned())
}

fn page(
    code: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}

#[cfg(test)]
mod tests;
