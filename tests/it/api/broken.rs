//! API servers as they should not be: too busy, broken, talking rubbish, silent. Each a mock of its own; needs no real one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egress_routes::cluster::client::{self, Api};
use egress_routes::cluster::uninstall::{Installation, Verdict};
use egress_routes::report::metrics::Metrics;
use egress_routes::report::status::GatewayState;
use egress_routes::routing::node_facts::Facts;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::server::eventually;
use super::{Reporting, SOON, status};

const NODE: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{"podCIDR":"10.244.1.0/24"}}"#;
const META: &str =
    r#"{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"name":"n"}}"#;
const SET: &str = r#"{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"name":"egress-routes","uid":"u1"}}"#;
const SLICE: &str = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"kubernetes"},"addressType":"IPv4","endpoints":[{"addresses":["192.0.2.10"]}]}"#;

/// How a mock answers while it is broken.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// A status code and a body.
    Says(u16, &'static str),
    /// 429 with Retry-After, in seconds.
    Busy(u32),
    /// Takes the request, and nothing follows.
    Silent,
    /// An answer without an end.
    Endless,
}

struct Mock {
    url: String,
    /// Writes are answered as a server that is well does, or as one that is broken.
    well: Arc<AtomicBool>,
}

impl Mock {
    /// Reads of a node always work; all else is broken until [`Mock::well`].
    async fn start(broken: Broken, reads: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let well = Arc::new(AtomicBool::new(false));
        let state = well.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                let answer = hyper::service::service_fn(move |request| {
                    answer(request, broken, reads, state.clone())
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer),
                );
            }
        });
        Self { url, well }
    }

    fn api(&self, metrics: &Metrics) -> Api {
        Api::new(kube::Config::new(self.url.parse().unwrap()), "n", metrics).unwrap()
    }
}

/// Passes connections on; once switched, those that are open swallow what they get, as after a NAT has forgotten them.
struct Relay {
    url: String,
    swallow: Arc<AtomicBool>,
}

impl Relay {
    async fn start(url: &str) -> Self {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let swallow = Arc::new(AtomicBool::new(false));
        let told = swallow.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let born_after = told.load(Ordering::Relaxed);
                let upstream = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(pass_on(stream, upstream, told.clone(), born_after));
            }
        });
        Self { url, swallow }
    }
}

async fn pass_on(stream: TcpStream, upstream: TcpStream, told: Arc<AtomicBool>, always: bool) {
    let ((mut from, mut back), (mut answers, mut to)) =
        (stream.into_split(), upstream.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if (always || !told.load(Ordering::Relaxed))
            && to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(
    request: Request<Incoming>,
    broken: Broken,
    reads: bool,
    well: Arc<AtomicBool>,
) -> Result<Answer, Infallible> {
    use http_body_util::BodyExt as _;
    let whole = |code: u16, body: &'static str| {
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)).boxed())
            .unwrap()
    };
    let meta = request.headers().get("accept").is_some_and(|accept| {
        accept
            .to_str()
            .is_ok_and(|text| text.contains("PartialObject"))
    });
    let good = match request.uri().path() {
        path if path.contains("/endpointslices/") => SLICE,
        path if path.contains("/daemonsets/") => SET,
        _ if meta => META,
        _ => NODE,
    };
    if well.load(Ordering::Relaxed) || (reads && request.method() == Method::GET) {
        return Ok(whole(200, good));
    }
    Ok(match broken {
        Broken::Says(code, body) => whole(code, body),
        Broken::Busy(seconds) => {
            let mut answer = whole(
                429,
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","code":429,"message":"slow down"}"#,
            );
            answer.headers_mut().insert("retry-after", seconds.into());
            answer
        }
        Broken::Silent => std::future::pending().await,
        Broken::Endless => {
            let chunk = Bytes::from_static(&[b' '; 1 << 14]);
            let stream = futures::stream::repeat_with(move || {
                Ok::<_, Infallible>(hyper::body::Frame::data(chunk.clone()))
            });
            Response::new(http_body_util::BodyExt::boxed(
                http_body_util::StreamBody::new(stream),
            ))
        }
    })
}

fn attempts(metrics: &Metrics, code: &str) -> u64 {
    metrics.api_requests("patch", code)
}

#[tokio::test]
async fn a_server_that_says_wait_is_left_alone_for_as_long_as_it_says() {
    let (mock, metrics) = (Mock::start(Broken::Busy(8), true).await, Metrics::new());
    let reporting = Reporting::start(&mock.api(&metrics));
    reporting.say(status("0123456789ab", 10, GatewayState::Up));
    assert!(
        eventually(SOON, async || attempts(&metrics, "429") == 1).await,
        "{}",
        metrics.render().unwrap()
    );
    let refused = Instant::now();
    mock.well.store(true, Ordering::Relaxed);
    assert!(eventually(SOON, async || attempts(&metrics, "200") == 1).await);
    assert!(
        refused.elapsed() >= Duration::from_secs(7),
        "asked again after {:?}",
        refused.elapsed()
    );
    assert_eq!(attempts(&metrics, "429"), 1);
}

#[tokio::test]
async fn errors_rubbish_and_endless_answers_are_tried_again_with_pauses_until_the_server_is_well() {
    let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
    let cases = [
        (
            Broken::Says(
                500,
                r#"{"kind":"Status","status":"Failure","code":500,"message":"etcd is gone"}"#,
            ),
            "500",
        ),
        (Broken::Says(502, page), "502"),
        (Broken::Says(200, page), "200"),
        (Broken::Says(200, "{\"kind\":"), "200"),
        (Broken::Endless, "error"),
    ];
    let all = cases.map(|(broken, code)| async move {
        let (mock, metrics) = (Mock::start(broken, true).await, Metrics::new());
        let reporting = Reporting::start(&mock.api(&metrics));
        reporting.say(status("0123456789ab", 10, GatewayState::Up));
        let start = Instant::now();
        assert!(
            eventually(SOON, async || attempts(&metrics, code) >= 2).await,
            "{broken:?}: {}",
            metrics.render().unwrap()
        );
        assert!(
            start.elapsed() > Duration::from_secs(5),
            "{broken:?}: two attempts within {:?}",
            start.elapsed()
        );
        mock.well.store(true, Ordering::Relaxed);
        let before = attempts(&metrics, "200");
        assert!(
            eventually(SOON, async || attempts(&metrics, "200") > before).await,
            "{broken:?}"
        );
    });
    futures::future::join_all(all).await;
}

#[tokio::test]
async fn a_silent_server_costs_one_waiting_request_at_a_time_and_the_next_state_is_not_forgotten() {
    let (mock, metrics) = (Mock::start(Broken::Silent, true).await, Metrics::new());
    let reporting = Reporting::start(&mock.api(&metrics));
    reporting.say(status("0123456789ab", 10, GatewayState::Up));
    assert!(
        eventually(SOON, async || attempts(&metrics, "timeout") == 1).await,
        "{}",
        metrics.render().unwrap()
    );
    mock.well.store(true, Ordering::Relaxed);
    reporting.say(status("ba9876543210", 10, GatewayState::Up));
    assert!(eventually(SOON, async || attempts(&metrics, "200") == 1).await);
}

#[tokio::test]
async fn an_open_connection_that_has_died_unnoticed_is_no_silent_server() {
    let (mock, metrics) = (Mock::start(Broken::Silent, true).await, Metrics::new());
    let relay = Relay::start(&mock.url).await;
    let config = kube::Config::new(relay.url.parse().unwrap());
    let watching = client::watch(Api::new(config, "n", &metrics).unwrap());
    let mut facts = watching.facts.clone();
    let known = facts.wait_for(|facts| matches!(facts, Facts::Known(_)));
    tokio::time::timeout(SOON, known).await.unwrap().unwrap();
    assert!(watching.read_node(SOON).await.answered());
    relay.swallow.store(true, Ordering::Relaxed);
    assert!(watching.read_node(Duration::from_secs(2)).await.answered());
}

#[tokio::test]
async fn whatever_a_broken_server_says_of_the_daemonset_the_routes_stay() {
    let page = "<html><body><h1>404 Not Found</h1></body></html>";
    for broken in [
        Broken::Says(404, page),
        Broken::Says(404, "{}"),
        Broken::Says(500, ""),
        Broken::Busy(1),
        Broken::Says(200, page),
    ] {
        let mock = Mock::start(broken, false).await;
        let installation =
            Installation::new(mock.api(&Metrics::new()), "kube-system", "egress-routes");
        mock.well.store(true, Ordering::Relaxed);
        tokio::time::timeout(SOON, installation.recognise())
            .await
            .expect("the mock is well");
        mock.well.store(false, Ordering::Relaxed);
        // The questions are repeated for 15 s; that the first ones do not settle it for the worse is what counts.
        let verdict =
            tokio::time::timeout(Duration::from_secs(3), installation.verdict(|| false)).await;
        assert!(
            !matches!(verdict, Ok(Verdict::Cleanup(_))),
            "{broken:?}: {verdict:?}"
        );
    }
}
