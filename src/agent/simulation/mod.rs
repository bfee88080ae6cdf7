//! Deterministic simulation: the engine that the agent runs, over a model kernel, a model API server and a model clock, through random
//! histories of everything that can happen. See `docs/simulation.md`.
//!
//! A history is a list of events, made from a seed. One that breaks a rule is shortened, and printed so that it replays.

mod boot;
mod clock;
mod history;
mod node;
mod outside;
mod quiet;
mod rules;
mod table;
mod verdicts;
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::report::metrics::Metrics;
use crate::report::status::{Overall, Status};
use crate::serve::page::readiness;
use history::{Action, history};
use rules::Verdict;
use world::World;

/// Histories of a run without HISTORIES and SECONDS.
const HISTORIES: u64 = 200;
/// How often a long run reports how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

thread_local! {
    static LINES: Cell<usize> = const { Cell::new(0) };
}

/// Lines that the agent has logged in this history.
fn lines() -> usize {
    LINES.get()
}

/// Counts what is logged, and prints it where asked to.
struct Log {
    print: bool,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        LINES.set(LINES.get() + 1);
        if self.print {
            let mut text = String::new();
            event.record(
                &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                    use std::fmt::Write as _;
                    let _ = write!(text, " {field}={value:?}");
                },
            );
            eprintln!("    {}{text}", event.metadata().level());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn play(history: &[Action], metrics: &Metrics) -> Verdict {
    LINES.set(0);
    let run = AssertUnwindSafe(|| World::new(metrics).run(history));
    catch_unwind(run).unwrap_or_else(|_| Err("a panic".to_owned()))
}

/// The shortest history that still breaks a rule: events are left out, then what is left is made smaller.
fn shortened(mut history: Vec<Action>, metrics: &Metrics) -> (Vec<Action>, String) {
    let mut why = play(&history, metrics).err().unwrap_or_default();
    let mut at = 0;
    while at < history.len() {
        let mut shorter = history.clone();
        shorter.remove(at);
        if let Err(other) = play(&shorter, metrics) {
            (history, why, at) = (shorter, other, 0);
        } else {
            at += 1;
        }
    }
    for at in 0..history.len() {
        while let Some(smaller) = history[at].smaller().into_iter().find_map(|smaller| {
            let mut tried = history.clone();
            tried[at] = smaller;
            let other = play(&tried, metrics).err()?;
            Some((tried, other))
        }) {
            (history, why) = smaller;
        }
    }
    (history, why)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a run went through.
#[derive(Default)]
struct Tally {
    histories: u64,
    kinds: [u64; Action::KINDS.len()],
}

impl Tally {
    fn add(&mut self, history: &[Action]) {
        self.histories += 1;
        for action in history {
            self.kinds[action.kind()] += 1;
        }
    }

    fn report(&self, time: Duration) {
        let rate = u128::from(self.histories) * 1000 / time.as_millis().max(1);
        let events: u64 = self.kinds.iter().sum();
        let kinds: Vec<String> = Action::KINDS
            .iter()
            .zip(self.kinds)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        eprintln!(
            "{} histories in {:.0} s ({rate}/s), {events} events: {}",
            self.histories,
            time.as_secs_f64(),
            kinds.join(", ")
        );
    }
}

/// SEED is the first, HISTORIES how many, SECONDS how long; REPLAY is one history, as a failure prints it.
#[test]
fn random_histories_break_no_rule() {
    let metrics = Metrics::new();
    let replay = std::env::var("REPLAY").ok();
    let print = replay.is_some();
    let _log = tracing::subscriber::set_default(Log { print });
    if let Some(replay) = replay {
        let history: Result<Vec<Action>, _> = replay.split_whitespace().map(str::parse).collect();
        let history = history.expect("a history");
        let verdict = World::new(&metrics).run_aloud(&history);
        assert_eq!(verdict, Ok(()));
        return;
    }
    let violations = run(&metrics);
    assert!(violations.is_empty(), "{} violations", violations.len());
}

/// Histories that once broke a rule, a line each.
#[test]
fn histories_that_broke_a_rule_break_none() {
    let metrics = Metrics::new();
    for line in include_str!("found.txt").lines() {
        let words = line.split('#').next().unwrap_or_default();
        let history: Result<Vec<Action>, _> = words.split_whitespace().map(str::parse).collect();
        assert_eq!(play(&history.expect(line), &metrics), Ok(()), "{line}");
    }
}

/// What is reported after these events.
fn status_after(world: &mut World, words: &str) -> Status {
    for word in words.split_whitespace() {
        assert_eq!(world.act(word.parse().expect(word)), Ok(()));
    }
    let agent = world.agent.as_ref();
    let status = agent.and_then(|agent| agent.engine.status.borrow().clone());
    status.expect("a status")
}

#[test]
fn a_node_on_which_new_routes_were_taken_back_is_ready_with_the_earlier_ones() {
    let mut world = World::new(&Metrics::new());
    let incomplete = status_after(&mut world, "edit:4224 start foreign:4:1 wait:15000");
    assert!(
        readiness(Some(&incomplete)).is_err(),
        "one set has no gateway"
    );
    let taken_back = status_after(&mut world, "link:1:60000 wait:45000 wait:45000");
    assert_eq!(taken_back.status, Overall::RolledBack);
    assert_eq!(readiness(Some(&taken_back)), Ok(()));
}

#[test]
fn a_read_that_failed_is_reported_until_one_works() {
    let mut world = World::new(&Metrics::new());
    let go = |world: &mut World, words: &str| status_after(world, words).status;
    assert_eq!(go(&mut world, "edit:1 start wait:8000"), Overall::Ready);
    let failing = "read-fails read-fails read-fails read-fails foreign:0:1 wait:3000";
    assert_eq!(go(&mut world, failing), Overall::Degraded);
    assert_eq!(
        go(&mut world, "wait:1000"),
        Overall::Degraded,
        "it still fails"
    );
    assert_eq!(go(&mut world, "wait:45000"), Overall::Ready);
}

/// Runs histories until enough violations (VIOLATIONS, one) are found, each in words.
fn run(metrics: &Metrics) -> Vec<String> {
    let first = number("SEED").unwrap_or(1);
    let time = number("SECONDS").map(Duration::from_secs);
    let most = number("HISTORIES").unwrap_or(if time.is_some() { u64::MAX } else { HISTORIES });
    let enough = number("VIOLATIONS").map_or(1, |n| usize::try_from(n).unwrap_or(1));
    let started = Instant::now();
    let mut reported = started;
    let mut tally = Tally::default();
    let mut violations = Vec::new();
    while tally.histories < most && time.is_none_or(|time| started.elapsed() < time) {
        let seed = first + tally.histories;
        let history = history(seed);
        tally.add(&history);
        if let Err(why) = play(&history, metrics) {
            let (short, why_short) = shortened(history, metrics);
            let words: Vec<String> = short.iter().map(ToString::to_string).collect();
            let violation = format!(
                "seed {seed}, after {} histories: {why}\nshortened: {why_short}\nREPLAY='{}'",
                tally.histories,
                words.join(" ")
            );
            eprintln!("{violation}");
            violations.push(violation);
            if violations.len() >= enough {
                break;
            }
        }
        if reported.elapsed() > PROGRESS {
            reported = Instant::now();
            tally.report(started.elapsed());
        }
    }
    tally.report(started.elapsed());
    violations
}
