//! The names of the steps, and the report of those towards a connection.

use super::report::CheckReport;
use crate::common::cli::check_args::CheckConfig;
use crate::common::transport::{Passed, Step};

pub(super) const TLS: &str = "TLS";
pub(super) const CONNECT: &str = "CONNECT";
pub(super) const CLIENT_ID: &str = "client id";
pub(super) const PUBLISH: &str = "publish";
pub(super) const SUBSCRIBE: &str = "subscribe";

pub(super) fn name(step: Step) -> &'static str {
    match step {
        Step::Dns => "DNS",
        Step::Tcp => "TCP",
        Step::Proxy => "proxy",
        Step::Tls => TLS,
        Step::WebSocket => "WebSocket",
    }
}

pub(super) fn after_tcp(config: &CheckConfig) -> Vec<&'static str> {
    let mut steps = vec![TLS, CONNECT];
    if config.connection.client_id_given {
        steps.push(CLIENT_ID);
    }
    if !config.topics.is_empty() {
        steps.extend([PUBLISH, SUBSCRIBE]);
    }
    steps
}

pub(super) fn report_passed(passed: &Passed, report: &mut CheckReport) {
    match passed {
        Passed::Resolved(addresses) => {
            let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
            report.ok(name(Step::Dns), all.join(", "));
        }
        Passed::Connected(address) => report.ok(name(Step::Tcp), address.to_string()),
        Passed::Tunnelled => report.ok(name(Step::Proxy), "has opened a tunnel"),
        Passed::Secured(facts) => {
            let alpn = match &facts.alpn {
                Some(name) => format!(", ALPN {name}"),
                None => String::new(),
            };
            report.ok(TLS, format!("{}, {}{alpn}", facts.version, facts.cipher));
            let chain = facts.chain.join(" < ");
            report.ok(
                "server",
                format!("{}, until {}; chain: {chain}", facts.names, facts.ends),
            );
        }
        Passed::Upgraded => report.ok(name(Step::WebSocket), "is open"),
        Passed::WentOn(fault) => {
            report.skipped("port", &format!("{fault}; trying the next port"));
        }
    }
}
