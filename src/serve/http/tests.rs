use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use tokio::sync::watch;

use super::*;
use crate::report::status::Status;
use crate::report::status::tests::example;

struct Server {
    address: SocketAddr,
    status: watch::Sender<Option<Status>>,
    alive: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, seen) = watch::channel(None);
    let alive = Arc::new(AtomicBool::new(true));
    let flag = alive.clone();
    let pages = Pages {
        metrics: Metrics::new(),
        status: StatusPage::new(seen),
        alive: Arc::new(move || flag.load(Ordering::Relaxed)),
    };
    let mut task = JoinSet::new();
    task.spawn(serve_on(listener, pages));
    Server {
        address,
        status,
        alive,
        _task: task,
    }
}

impl Server {
    /// Sends `request` and reads until the server closes; empty when it does so without a word.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let _ = stream.write_all(request).await;
        read_all(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(Duration::from_secs(40), reading)
        .await
        .expect("the server ends every connection");
    String::from_utf8(bytes).unwrap()
}

fn ready(revision: &str) -> Status {
    Status {
        revision: revision.into(),
        ..example()
    }
}

#[tokio::test]
async fn each_path_answers_what_it_is_for() {
    let server = server().await;
    assert!(server.get("/livez").await.starts_with("HTTP/1.1 200 OK"));
    assert!(
        server
            .get("/readyz")
            .await
            .ends_with("\r\n\r\nno status yet\n")
    );
    assert!(server.get("/status").await.starts_with("HTTP/1.1 503"));
    server.status.send_replace(Some(ready("0123456789ab")));
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200 OK"));
    let status = server.get("/status").await;
    let json: Status = serde_json::from_str(status.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(json, ready("0123456789ab"));
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.contains(
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        ),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(
        server
            .get("/metrics?name=x")
            .await
            .starts_with("HTTP/1.1 200 OK"),
        "a query is no other path"
    );
    assert!(server.get("/etc/passwd").await.starts_with("HTTP/1.1 404"));
    server.alive.store(false, Ordering::Relaxed);
    assert!(server.get("/livez").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn methods_other_than_get_and_head_are_refused() {
    let server = server().await;
    for method in [
        "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW",
    ] {
        let answer = server
            .raw(
                format!("{method} /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 405") || answer.starts_with("HTTP/1.1 400"),
            "{method}: {answer}"
        );
    }
    let head = server
        .raw(b"HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"),
        "a HEAD has no body: {head}"
    );
    let post = server.raw(b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\nabc").await;
    assert!(
        post.starts_with("HTTP/1.1 405"),
        "a body is not waited for: {post}"
    );
}

#[tokio::test]
async fn oversized_heads_and_rubbish_are_refused_and_the_server_goes_on() {
    let server = server().await;
    let long_header = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(100_000)
    );
    assert!(
        server
            .raw(long_header.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    assert!(
        server
            .raw(many.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let answer = server.raw(long_path.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414"),
        "{answer}"
    );
    assert!(
        server
            .raw(&[0x16, 3, 1, 0, 200, 1, 0, 0])
            .await
            .starts_with("HTTP/1.1 400"),
        "a TLS hello is no request"
    );
    assert!(server.get("/livez").await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_is_cut_off() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let started = Instant::now();
    while stream.write_all(b"G").await.is_ok() && started.elapsed() < Duration::from_secs(20) {
        sleep(Duration::from_millis(200)).await;
    }
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_connection_without_a_word_is_closed() {
    let server = server().await;
    let started = Instant::now();
    server.raw(b"").await;
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_thousand_open_connections_do_not_keep_a_probe_from_its_answer() {
    let server = server().await;
    let mut silent = Vec::new();
    for n in 0..1000 {
        if let Ok(mut stream) = TcpStream::connect(server.address).await {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").await;
            silent.push(stream);
        }
        if n % 100 == 99 {
            assert!(
                server.get("/livez").await.starts_with("HTTP/1.1 200 OK"),
                "after {n} connections"
            );
        }
    }
    assert!(silent.len() > 900, "{} connections were made", silent.len());
}

#[tokio::test]
async fn a_port_in_use_is_tried_until_it_is_free() {
    let blocker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = blocker.local_addr().unwrap();
    let (_status, seen) = watch::channel(None);
    let mut task = JoinSet::new();
    task.spawn(serve(
        address,
        Pages {
            metrics: Metrics::new(),
            status: StatusPage::new(seen),
            alive: Arc::new(|| true),
        },
    ));
    sleep(Duration::from_millis(100)).await;
    drop(blocker);
    let answered = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                stream
                    .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .await
                    .unwrap();
                return read_all(&mut stream).await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        timeout(Duration::from_secs(10), answered)
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 OK")
    );
}
