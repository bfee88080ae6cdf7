//! Connections that are open and keep talking, and which of them broke.

use std::collections::{BTreeMap, BTreeSet};

use super::traffic::LIMIT;
use crate::lab::Node;
use crate::lab::{Running, wait_until};

pub const CONNECTIONS: usize = 300;

/// Connections that keep talking.
pub struct Talk {
    program: Running,
    rounds: usize,
}

impl Talk {
    pub fn start(node: &Node) -> Self {
        let addresses: Vec<String> = (0..CONNECTIONS)
            .map(|n| format!("198.18.{}.{}", n / 100, n % 100 + 1))
            .collect();
        Self::to(node, "nd", &addresses)
    }

    /// One connection from a host to each of these addresses.
    pub fn to(node: &Node, host: &str, addresses: &[String]) -> Self {
        let count = addresses.len();
        let addresses = addresses.iter().map(String::as_str);
        let args: Vec<&str> = ["hold", "2000", "7007"]
            .into_iter()
            .chain(addresses)
            .collect();
        let program = node.lab.echo(host, &args);
        program.wait_for(&format!("held {count} of {count}"), LIMIT);
        Self { program, rounds: 0 }
    }

    /// The source that the echo host sees of each connection.
    pub fn sources(&self) -> BTreeMap<String, String> {
        let output = self.program.log();
        let pairs = output
            .lines()
            .filter_map(|line| line.strip_prefix("echo: 198.18."));
        pairs
            .filter_map(|pair| pair.split_once(' '))
            .map(|(to, source)| (format!("198.18.{to}"), source.to_owned()))
            .collect()
    }

    /// Each sends one message.
    pub fn round(&mut self) {
        self.program.tell("");
        self.rounds += 1;
        let done = || self.program.log().matches("echo: alive").count() == self.rounds;
        assert!(wait_until(LIMIT, done), "{}", self.program.log());
    }

    /// Keeps talking until something is so, and for three more rounds.
    pub fn until(&mut self, mut condition: impl FnMut() -> bool) {
        let mut more = 3;
        assert!(
            wait_until(LIMIT, || {
                self.round();
                more -= u32::from(condition());
                more == 0
            }),
            "{}",
            self.program.log()
        );
    }

    /// The addresses of all that broke so far.
    pub fn broken(&self) -> BTreeSet<String> {
        let output = self.program.log();
        let rounds = output
            .lines()
            .filter(|line| line.starts_with("echo: alive"));
        rounds
            .flat_map(|line| {
                line.split(' ')
                    .skip(5)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}
