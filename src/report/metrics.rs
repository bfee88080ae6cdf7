//! The numbers behind `/metrics`: one registry, names and labels exactly as contract section 6 has them.
//!
//! Label sets are closed or bounded by the configuration; no prefix and no error text is ever a label.
//! Nothing here decides anything, and nothing here reads a clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::report::status::{GatewayState, GatewayStatus, Overall, Status};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets of `apply_seconds`: from a change of one nexthop to a first apply of 50,000 routes.
const APPLY_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

type Ratio = Gauge<f64, AtomicU64>;

/// All of the agent's metrics. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    routes: Family<RouteLabels, Gauge>,
    gateway_up: Family<GatewayLabels, Gauge>,
    gateway_rtt: Family<GatewayLabels, Ratio>,
    gateway_draining: Family<GatewayLabels, Gauge>,
    config_valid: Gauge,
    config_info: Family<RevisionLabel, Gauge>,
    config_last_success: Ratio,
    apply_seconds: Histogram,
    changes: Family<ChangeLabel, Counter>,
    restored: Counter,
    ip_failures: Counter,
    api_requests: Family<RequestLabels, Counter>,
    rollbacks: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    set: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GatewayLabels {
    set: String,
    gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RevisionLabel {
    revision: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabel {
    kind: Change,
}

/// The kind of a change to the kernel, as `changes_total` counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A route was added or replaced.
    Replace,
    /// A route was deleted.
    Delete,
    /// A nexthop or nexthop group was added, replaced or deleted.
    Nexthop,
}

impl EncodeLabelValue for Change {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        let word = match self {
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Nexthop => "nexthop",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    code: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with every metric at its start value. Counters of closed label sets start at 0, so that a first
    /// increase is visible to `rate()`.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("egress_routes");
        let build_info = Family::<VersionLabel, Gauge>::default();
        build_info
            .get_or_create(&VersionLabel {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        registry.register("build_info", "The agent's version", build_info);
        let mut metrics = Self {
            registry: Arc::default(),
            routes: Family::default(),
            gateway_up: Family::default(),
            gateway_rtt: Family::default(),
            gateway_draining: Family::default(),
            config_valid: Gauge::default(),
            config_info: Family::default(),
            config_last_success: Gauge::default(),
            apply_seconds: Histogram::new(APPLY_BUCKETS),
            changes: Family::default(),
            restored: Counter::default(),
            ip_failures: Counter::default(),
            api_requests: Family::default(),
            rollbacks: Counter::default(),
        };
        metrics.register(&mut registry);
        for kind in [Change::Replace, Change::Delete, Change::Nexthop] {
            drop(metrics.changes.get_or_create(&ChangeLabel { kind }));
        }
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        self.register_state(registry);
        self.register_counts(registry);
    }

    fn register_state(&self, registry: &mut Registry) {
        registry.register(
            "routes",
            "Prefixes by route set: wanted on this node, in the kernel, wanted but not in the kernel",
            self.routes.clone(),
        );
        registry.register(
            "gateway_up",
            "1 when the gateway answers its probe, 0 when not; absent before the first verdict",
            self.gateway_up.clone(),
        );
        registry.register(
            "gateway_rtt_seconds",
            "Round-trip time of the last successful probe",
            self.gateway_rtt.clone(),
        );
        registry.register(
            "gateway_draining_buckets",
            "Buckets of flows that a leaving gateway still carries; absent for other gateways",
            self.gateway_draining.clone(),
        );
        registry.register(
            "config_valid",
            "1 when the newest configuration was accepted",
            self.config_valid.clone(),
        );
        registry.register(
            "config_info",
            "The revision in force",
            self.config_info.clone(),
        );
        registry.register(
            "config_last_success_timestamp_seconds",
            "When the last change was verified in the kernel",
            self.config_last_success.clone(),
        );
    }

    /// The encoder adds `_total` to counters itself.
    fn register_counts(&self, registry: &mut Registry) {
        registry.register(
            "apply_seconds",
            "From the start of a change to its read-back",
            self.apply_seconds.clone(),
        );
        registry.register(
            "changes",
            "Changes made to the kernel",
            self.changes.clone(),
        );
        registry.register(
            "restored",
            "Routes and nexthops restored after they had vanished",
            self.restored.clone(),
        );
        registry.register(
            "ip_failures",
            "Runs of ip that failed, timed out or could not be started",
            self.ip_failures.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the Kubernetes API; code is timeout or error when no answer came",
            self.api_requests.clone(),
        );
        registry.register(
            "rollbacks",
            "Changes reverted because the API server was cut off",
            self.rollbacks.clone(),
        );
    }

    /// Sets every gauge from `status`; what is no longer in it disappears.
    pub fn observe(&self, status: &Status) {
        self.routes.clear();
        self.gateway_up.clear();
        self.gateway_rtt.clear();
        self.gateway_draining.clear();
        self.config_info.clear();
        for set in &status.sets {
            let failed = set.wanted.saturating_sub(set.installed);
            for (state, count) in [
                ("wanted", set.wanted),
                ("installed", set.installed),
                ("failed", failed),
            ] {
                let labels = RouteLabels {
                    set: set.name.clone(),
                    state,
                };
                self.routes
                    .get_or_create(&labels)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            for gateway in &set.gateways {
                self.observe_gateway(&set.name, gateway);
            }
        }
        self.config_valid
            .set(i64::from(status.status != Overall::Invalid));
        if !status.revision.is_empty() {
            self.config_info
                .get_or_create(&RevisionLabel {
                    revision: status.revision.clone(),
                })
                .set(1);
        }
        if let Some(at) = status.last_applied_at {
            self.config_last_success.set(
                Duration::try_from(at.as_duration())
                    .unwrap_or_default()
                    .as_secs_f64(),
            );
        }
    }

    fn observe_gateway(&self, set: &str, gateway: &GatewayStatus) {
        let labels = GatewayLabels {
            set: set.to_owned(),
            gateway: gateway.address.to_string(),
        };
        match gateway.state {
            GatewayState::Up | GatewayState::Draining => {
                self.gateway_up.get_or_create(&labels).set(1);
            }
            GatewayState::Down | GatewayState::Unusable => {
                self.gateway_up.get_or_create(&labels).set(0);
            }
            GatewayState::Unknown => {}
        }
        if let Some(buckets) = gateway.buckets {
            let draining = self.gateway_draining.get_or_create(&labels);
            draining.set(i64::from(buckets));
        }
        if let Some(ms) = gateway.rtt_ms {
            self.gateway_rtt.get_or_create(&labels).set(ms / 1000.0);
        }
    }

    /// One change of the kernel took this long, read-back included.
    pub fn applied(&self, took: Duration) {
        self.apply_seconds.observe(took.as_secs_f64());
    }

    /// `count` changes of a kind were made to the kernel.
    pub fn changed(&self, kind: Change, count: usize) {
        self.changes
            .get_or_create(&ChangeLabel { kind })
            .inc_by(count as u64);
    }

    /// `count` routes or nexthops that had vanished were restored.
    pub fn restored(&self, count: usize) {
        self.restored.inc_by(count as u64);
    }

    /// A run of `ip` failed, timed out or could not be started.
    pub fn ip_failed(&self) {
        self.ip_failures.inc();
    }

    /// A change was reverted.
    pub fn rolled_back(&self) {
        self.rollbacks.inc();
    }

    /// The API was asked; `code` is an HTTP status code, `timeout` or `error`.
    pub fn asked_api(&self, verb: &'static str, code: &str) {
        self.api_requests
            .get_or_create(&RequestLabels {
                verb,
                code: code.to_owned(),
            })
            .inc();
    }

    /// How often the API was asked with `verb` and answered `code`, since the start.
    pub fn api_requests(&self, verb: &'static str, code: &str) -> u64 {
        self.api_requests
            .get(&RequestLabels {
                verb,
                code: code.to_owned(),
            })
            .map_or(0, |counter| counter.get())
    }

    /// The text of `/metrics`, as [`CONTENT_TYPE`].
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::{example, set};

    #[test]
    fn every_metric_has_the_name_and_labels_of_the_contract() {
        let metrics = Metrics::new();
        metrics.observe(&example());
        metrics.applied(Duration::from_millis(40));
        metrics.changed(Change::Replace, 12);
        metrics.asked_api("get", "200");
        metrics.asked_api("patch", "timeout");
        let text = metrics.render().unwrap();
        for line in [
            "egress_routes_routes{set=\"clouds\",state=\"wanted\"} 2050\n",
            "egress_routes_routes{set=\"clouds\",state=\"installed\"} 2048\n",
            "egress_routes_routes{set=\"clouds\",state=\"failed\"} 2\n",
            "egress_routes_gateway_up{set=\"clouds\",gateway=\"10.116.0.5\"} 1\n",
            "egress_routes_gateway_up{set=\"clouds\",gateway=\"10.116.0.6\"} 0\n",
            "egress_routes_gateway_rtt_seconds{set=\"clouds\",gateway=\"10.116.0.5\"} 0.0005\n",
            "egress_routes_config_valid 1\n",
            "egress_routes_config_info{revision=\"0123456789ab\"} 1\n",
            "egress_routes_config_last_success_timestamp_seconds 1800000000.0\n",
            "egress_routes_apply_seconds_bucket{le=\"0.05\"} 1\n",
            "egress_routes_changes_total{kind=\"replace\"} 12\n",
            "egress_routes_changes_total{kind=\"nexthop\"} 0\n",
            "egress_routes_restored_total 0\n",
            "egress_routes_ip_failures_total 0\n",
            "egress_routes_api_requests_total{verb=\"get\",code=\"200\"} 1\n",
            "egress_routes_api_requests_total{verb=\"patch\",code=\"timeout\"} 1\n",
            "egress_routes_rollbacks_total 0\n",
            "egress_routes_build_info{version=\"0.1.0\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_series_of_a_removed_set_or_gateway_disappear() {
        let metrics = Metrics::new();
        metrics.observe(&example());
        let mut status = example();
        status.sets = vec![set("partner-api", &[("10.116.0.9", GatewayState::Unknown)])];
        status.revision = "ba9876543210".into();
        metrics.observe(&status);
        let text = metrics.render().unwrap();
        assert!(!text.contains("clouds"), "{text}");
        assert!(!text.contains("10.116.0.5"), "{text}");
        assert!(!text.contains("0123456789ab"), "{text}");
        assert!(
            !text.contains("gateway_up{"),
            "a gateway without a verdict is neither up nor down: {text}"
        );
    }

    #[test]
    fn the_buckets_of_a_gateway_that_leaves_are_counted_down_to_zero() {
        let metrics = Metrics::new();
        let mut status = example();
        for buckets in [Some(24), Some(0), None] {
            status.sets[0].gateways[0].buckets = buckets;
            metrics.observe(&status);
            let text = metrics.render().unwrap();
            let name = "egress_routes_gateway_draining_buckets{";
            let line = |n| format!("{name}set=\"clouds\",gateway=\"10.116.0.6\"}} {n}\n");
            assert_eq!(text.contains(name), buckets.is_some(), "{text}");
            assert!(buckets.is_none_or(|n| text.contains(&line(n))), "{text}");
        }
    }

    #[test]
    fn a_refused_configuration_is_not_valid_and_a_gateway_that_is_down_is_no_matter_of_the_configuration()
     {
        let metrics = Metrics::new();
        let mut status = example();
        for (overall, valid) in [
            (Overall::Invalid, 0),
            (Overall::Degraded, 1),
            (Overall::RolledBack, 1),
            (Overall::Ready, 1),
        ] {
            status.status = overall;
            metrics.observe(&status);
            assert_eq!(metrics.config_valid.get(), valid, "{overall:?}");
        }
    }
}
