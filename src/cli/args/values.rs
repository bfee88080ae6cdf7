//! Values of flags: what each may be, and what would be right.
//!
//! Pure.

use std::time::Duration;

use crate::config::duration;
use crate::routing::batch::LEAK_GUARD_METRIC;

pub(super) fn mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| "expected a number, like 0x80 or 128".to_owned())
}

pub(super) fn table(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => {
            Err("expected the number of a routing table, like 254 for `main`".to_owned())
        }
        Ok(255) => Err(
            "255 is the kernel's table of its own addresses; the usual one is 254, `main`"
                .to_owned(),
        ),
        Ok(table) => Ok(table),
    }
}

pub(super) fn protocol(text: &str) -> Result<u8, String> {
    let taken = |by: &str| {
        Err(format!(
            "{text} marks the routes of {by}, and the agent would take them for its own; 200 to 247 are free"
        ))
    };
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 to 255; 200 to 247 are free".to_owned()),
        // linux/rtnetlink.h
        Ok(1) => taken("ICMP redirects"),
        Ok(2) => taken("the kernel"),
        Ok(3) => taken("`ip route add` without a protocol"),
        Ok(4) => taken("administrators"),
        Ok(9) => taken("router advertisements"),
        Ok(16) => taken("DHCP clients"),
        // rtnetlink.h too, and what the daemons of Kubernetes networks take for themselves
        Ok(11) => taken("zebra"),
        Ok(12) => taken("BIRD"),
        Ok(17) => taken("kube-router"),
        Ok(18) => taken("keepalived"),
        Ok(42) => taken("Babel"),
        Ok(66) => taken("Google's guest agent"),
        Ok(80) => taken("Calico"),
        Ok(84) => taken("OVN"),
        Ok(99) => taken("Open/R"),
        Ok(186..=198) => taken("routing daemons such as FRR"),
        Ok(248) => taken("kube-vip"),
        Ok(protocol) => Ok(protocol),
    }
}

pub(super) fn metric(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(metric) if metric > 0 && metric < LEAK_GUARD_METRIC => Ok(metric),
        _ => Err(format!(
            "expected a number from 1 to {} (0 would be the kernel's default metric, and {LEAK_GUARD_METRIC} is the leak guard's)",
            LEAK_GUARD_METRIC - 1
        )),
    }
}

/// A duration as Kubernetes writes them; a bare `0` too.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    duration::parse(text).map_err(|why| format!("{why}; expected a duration like 500ms, 1s or 2m"))
}

/// A duration of at least 100 ms.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    duration_or_zero(text).and_then(|d| {
        if d < Duration::from_millis(100) {
            Err("expected a duration of at least 100ms".to_owned())
        } else {
            Ok(d)
        }
    })
}
