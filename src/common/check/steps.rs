//! The names of the steps, and the report of those towards a connection.

use super::report::CheckReport;
use crate::common::cli::check_args::CheckConfig;
use crate::common::transport::{DialProgress, DialStep};

pub(super) const TLS: &str = "TLS";
pub(super) const CONNECT: &str = "CONNECT";
pub(super) const CLIENT_ID: &str = "client id";
pub(super) const PUBLISH: &str = "publish";
pub(super) const SUBSCRIBE: &str = "subscribe";

pub(super) fn name(step: DialStep) -> &'static str {
    match step {
        DialStep::Dns => "DNS",
        DialStep::Tcp => "TCP",
        DialStep::Proxy => "proxy",
        DialStep::Tls => TLS,
        DialStep::WebSocket => "WebSocket",
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

pub(super) fn report_passed(passed: &DialProgress, report: &mut CheckReport) {
    match passed {
        DialProgress::Resolved(addresses) => {
            let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
            report.ok(name(DialStep::Dns), all.join(", "));
        }
        DialProgress::Connected(address) => report.ok(name(DialStep::Tcp), address.to_string()),
        DialProgress::TunnelOpened => report.ok(name(DialStep::Proxy), "has opened a tunnel"),
        DialProgress::TlsEstablished(facts) => {
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
        DialProgress::WebSocketOpened => report.ok(name(DialStep::WebSocket), "is open"),
        DialProgress::EndpointFailed(fault) => {
            report.skipped("port", &format!("{fault}; trying the next port"));
        }
    }
}
