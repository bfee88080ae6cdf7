//! The internet host and its client in the demonstration and in the namespace tests.
//!
//! `serve` answers each TCP connection with the source address it sees and then gives back every line; `ask` prints what such a
//! server answered; `hold` keeps connections open and prints which of them still work; `watch` asks all the time and prints when the
//! path changes. One purpose: to see which path a packet took without a packet dump and without an interpreter. It is not part of the product.
//!
//! ```text
//! echo serve PORT [UDP-ADDRESS...]      TCP on every address; UDP on the addresses named
//! echo ask  MS PORT ADDRESS...          "ADDRESS SOURCE" or "ADDRESS - why", at most MS per address; exit 1 if one failed
//! echo udp  MS PORT ADDRESS...          the same by UDP
//! echo http PORT                        HTTP on every address: the source address that it sees, as text
//! echo hold MS PORT ADDRESS...          "ADDRESS SOURCE" each and "held N of M"; then for each line read from stdin
//!                                       "alive N broken M" and the addresses of those that broke since, all given MS to return a line
//! echo watch MS PORT ADDRESS...         a UDP datagram to each address every MS; "ADDRESS SOURCE after N ms" when a source is new,
//!                                       N being the time since the address last answered
//! ```
//! Output lines start with `echo: `, so that a caller can distinguish them from a test harness's own lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// A connection's thread needs next to nothing; a thousand of them should not reserve gigabytes.
const STACK_BYTES: usize = 64 * 1024;
/// Addresses asked at the same time.
const ASKED_AT_ONCE: usize = 64;

/// The program, also when it is built on its own (`cargo run --example echo`).
pub fn main() -> ExitCode {
    play(&std::env::args().skip(1).collect::<Vec<_>>())
}

/// The program with its arguments; what a test binary calls when it has to be the echo host itself.
pub fn play(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            say(&format!("error {why}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<bool, String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port, udp @ ..] => serve(number(port)?, &addresses(udp)?).map(|()| true),
        ["http", port] => http(number(port)?).map(|()| true),
        ["ask", ms, port, to @ ..] => Ok(ask(&addresses(to)?, number(port)?, millis(ms)?, ask_tcp)),
        ["udp", ms, port, to @ ..] => Ok(ask(&addresses(to)?, number(port)?, millis(ms)?, ask_udp)),
        ["hold", ms, port, to @ ..] => hold(&addresses(to)?, number(port)?, millis(ms)?),
        ["watch", ms, port, to @ ..] => {
            watch(&addresses(to)?, number(port)?, millis(ms)?).map(|()| true)
        }
        _ => Err(
            "usage: echo serve PORT [UDP-ADDRESS...] | http PORT | ask|udp|hold|watch MS PORT ADDRESS..."
                .into(),
        ),
    }
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is not a port"))
}

fn millis(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_millis)
        .map_err(|_| format!("`{text}` is not a number of milliseconds"))
}

fn addresses(texts: &[&str]) -> Result<Vec<IpAddr>, String> {
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|_| format!("`{text}` is not an address"))
        })
        .collect()
}

/// One line to stdout at once: the reader is a program that waits for it. A reader that went away is no reason to stop.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "\necho: {line}").and_then(|()| out.flush());
}

fn serve(port: u16, udp: &[IpAddr]) -> Result<(), String> {
    let here = |address: IpAddr| SocketAddr::new(address, port);
    for &address in udp {
        let socket = UdpSocket::bind(here(address))
            .map_err(|why| format!("binding UDP {}: {why}", here(address)))?;
        thread::spawn(move || answer_datagrams(&socket));
    }
    // The wildcard of IPv6 takes both families; a host without IPv6 has only the other one.
    let listener = TcpListener::bind(here(Ipv6Addr::UNSPECIFIED.into()))
        .or_else(|_| TcpListener::bind(here(IpAddr::from([0, 0, 0, 0]))))
        .map_err(|why| format!("binding TCP port {port}: {why}"))?;
    say("ready");
    for stream in listener.incoming().flatten() {
        let _ = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || answer(stream));
    }
    Ok(())
}

fn http(port: u16) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .map_err(|why| format!("binding TCP port {port}: {why}"))?;
    say("ready");
    for mut stream in listener.incoming().flatten() {
        let Ok(from) = stream.peer_addr() else {
            continue;
        };
        let source = from.ip().to_canonical().to_string();
        // The request's head; whatever it asks for, the answer is the same.
        let head = BufReader::new(&stream).lines().map_while(Result::ok);
        head.take_while(|line| !line.is_empty()).for_each(drop);
        let length = source.len();
        let _ = stream.write_all(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{source}"
            )
            .as_bytes(),
        );
    }
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 1500];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(format!("{}\n", from.ip().to_canonical()).as_bytes(), from);
    }
}

fn answer(stream: TcpStream) {
    let Ok(from) = stream.peer_addr() else { return };
    let Ok(mut back) = stream.try_clone() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    if back
        .write_all(format!("{}\n", from.ip().to_canonical()).as_bytes())
        .is_err()
    {
        return;
    }
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        if back.write_all(format!("{line}\n").as_bytes()).is_err() {
            return;
        }
    }
}

type Question = fn(SocketAddr, Duration) -> io::Result<String>;

/// Asks every address, [`ASKED_AT_ONCE`] at a time, and prints the answers in the order of the question.
fn ask(to: &[IpAddr], port: u16, limit: Duration, question: Question) -> bool {
    let mut all = true;
    for some in to.chunks(ASKED_AT_ONCE) {
        let asked: Vec<_> = some
            .iter()
            .map(|&address| {
                (
                    address,
                    thread::spawn(move || question(SocketAddr::new(address, port), limit)),
                )
            })
            .collect();
        for (address, thread) in asked {
            match thread.join() {
                Ok(Ok(source)) => say(&format!("{address} {source}")),
                Ok(Err(why)) => {
                    all = false;
                    say(&format!("{address} - {why}"));
                }
                Err(_) => all = false,
            }
        }
    }
    all
}

fn ask_tcp(to: SocketAddr, limit: Duration) -> io::Result<String> {
    greet(to, limit).map(|(_, source)| source)
}

fn ask_udp(to: SocketAddr, limit: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(to)?;
    socket.send(b"?\n")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

/// Connects, and reads the line with the source that the other side sees.
fn greet(to: SocketAddr, limit: Duration) -> io::Result<(BufReader<TcpStream>, String)> {
    let stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut reader = BufReader::new(stream);
    let source = read_line(&mut reader)?;
    Ok((reader, source))
}

fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim().to_owned()),
    }
}

fn hold(to: &[IpAddr], port: u16, limit: Duration) -> Result<bool, String> {
    let (mut held, mut at) = (Vec::new(), Vec::new());
    for &address in to {
        match greet(SocketAddr::new(address, port), limit) {
            Ok((reader, source)) => {
                say(&format!("{address} {source}"));
                held.push(reader);
                at.push(address);
            }
            Err(why) => say(&format!("{address} - {why}")),
        }
    }
    say(&format!("held {} of {}", held.len(), to.len()));
    let mut working = vec![true; held.len()];
    for (turn, line) in io::stdin().lock().lines().enumerate() {
        line.map_err(|why| format!("reading stdin: {why}"))?;
        let before = working.clone();
        talk(&mut held, &mut working, &format!("turn {turn}"), limit);
        let alive = working.iter().filter(|works| **works).count();
        let mut words = format!("alive {alive} broken {}", working.len() - alive);
        for (address, _) in at
            .iter()
            .zip(before.iter().zip(&working))
            .filter(|(_, (before, now))| before != now)
        {
            let _ = write!(words, " {address}");
        }
        say(&words);
    }
    Ok(working.iter().all(|works| *works))
}

/// One round: a line to each, and the same back. All are sent to before the first is waited for, and all wait for one limit.
fn talk(held: &mut [BufReader<TcpStream>], working: &mut [bool], word: &str, limit: Duration) {
    for (reader, works) in held.iter_mut().zip(working.iter_mut()) {
        *works &= reader
            .get_mut()
            .write_all(format!("{word}\n").as_bytes())
            .is_ok();
    }
    let end = Instant::now() + limit;
    for (reader, works) in held.iter_mut().zip(working).filter(|(_, works)| **works) {
        // An answer that is there already is read even when the time is over.
        let left = end
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        *works = reader
            .get_ref()
            .set_read_timeout(Some(left))
            .and_then(|()| read_line(reader))
            .is_ok_and(|back| back == word);
    }
}

/// Asks without end. One socket for all, unconnected: each datagram takes the path of the routes of its moment.
fn watch(to: &[IpAddr], port: u16, pause: Duration) -> Result<(), String> {
    let socket =
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).map_err(|why| format!("binding UDP: {why}"))?;
    let mut seen: BTreeMap<IpAddr, (String, Instant)> = BTreeMap::new();
    let mut buffer = [0; 64];
    loop {
        let end = Instant::now() + pause;
        for &address in to {
            let mapped = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            // No route, or a blackhole: that is what is watched.
            let _ = socket.send_to(b"?\n", (mapped, port));
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket
                .set_read_timeout(Some(left))
                .map_err(|why| format!("setting a time limit: {why}"))?;
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let source = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
            let (from, now) = (from.ip().to_canonical(), Instant::now());
            let before = seen.insert(from, (source.clone(), now));
            if before.as_ref().is_none_or(|(before, _)| *before != source) {
                let silence = before.map_or(Duration::ZERO, |(_, last)| now - last);
                say(&format!("{from} {source} after {} ms", silence.as_millis()));
            }
        }
    }
}
