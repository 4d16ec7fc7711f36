//! The steps of the check and their report: text (each step when it is done) or one JSON object.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;

use serde::Serialize;

use crate::common::cli::check_command_args::ConnectionCheckConfig;
use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::escaping_writer::EscapingWriter;
use crate::common::runtime::stdio;
use crate::common::transport::{DialEvent, DialStep};

pub(super) const DNS: &str = "DNS";
pub(super) const TCP: &str = "TCP";
pub(super) const UNIX_SOCKET: &str = "Unix socket";
pub(super) const PROXY: &str = "proxy";
pub(super) const TLS: &str = "TLS";
pub(super) const WEBSOCKET: &str = "WebSocket";
pub(super) const CONNECT: &str = "CONNECT";
pub(super) const CLIENT_ID: &str = "client id";
pub(super) const PUBLISH: &str = "publish";
pub(super) const SUBSCRIBE: &str = "subscribe";

pub(super) fn step_name(step: DialStep) -> &'static str {
    match step {
        DialStep::Dns => DNS,
        DialStep::Tcp => TCP,
        DialStep::UnixSocket => UNIX_SOCKET,
        DialStep::Proxy => PROXY,
        DialStep::Tls => TLS,
        DialStep::WebSocket => WEBSOCKET,
    }
}

pub(super) fn steps_after_tcp(config: &ConnectionCheckConfig) -> Vec<&'static str> {
    let mut steps = Vec::new();
    if config.connection.endpoint.tls {
        steps.push(TLS);
    }
    steps.push(CONNECT);
    if tests_client_id(config) {
        steps.push(CLIENT_ID);
    }
    if !config.topics.is_empty() {
        steps.extend([PUBLISH, SUBSCRIBE]);
    }
    steps
}

/// Whether to find out if another client uses the same identifier.
pub(super) fn tests_client_id(config: &ConnectionCheckConfig) -> bool {
    config.connection.client_id_given && config.spared_client_id.is_none()
}

fn join_addresses(addresses: &[SocketAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    all.join(", ")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum StepStatus {
    Ok,
    Failed,
    Skipped,
}

#[derive(Debug, Serialize)]
struct StepResult {
    step: &'static str,
    status: StepStatus,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
}

#[derive(Debug, Serialize)]
pub(super) struct CheckReport {
    ok: bool,
    exit: u8,
    endpoint: String,
    /// Until the client's certificate ends; none without one.
    pub(super) days_left: Option<i32>,
    warnings: Vec<String>,
    steps: Vec<StepResult>,
    #[serde(skip)]
    worst: Exit,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    colour: bool,
    #[serde(skip)]
    write_error: Option<io::Error>,
}

impl CheckReport {
    pub(super) fn new(endpoint: String, json: bool) -> Self {
        Self {
            ok: true,
            exit: 0,
            endpoint,
            days_left: None,
            warnings: Vec::new(),
            steps: Vec::new(),
            worst: Exit::Success,
            json,
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            write_error: None,
        }
    }

    pub(super) fn handle_progress(&mut self, event: &DialEvent) {
        match event {
            DialEvent::Resolved(addresses) => {
                self.add_ok(DNS, join_addresses(addresses));
            }
            DialEvent::ProxyResolved {
                addresses,
                left_to_proxy,
            } => {
                let all = join_addresses(addresses);
                self.add_ok(
                    DNS,
                    match left_to_proxy {
                        Some(name) => format!("{all} (the proxy); {name} is resolved by the proxy"),
                        None => format!("{all} (the proxy)"),
                    },
                );
            }
            DialEvent::UnixSocketConnected => self.add_ok(UNIX_SOCKET, "is connected"),
            DialEvent::Connected(address) => self.add_ok(TCP, address.to_string()),
            DialEvent::TunnelOpened => self.add_ok(PROXY, "has opened a tunnel"),
            DialEvent::TlsEstablished(facts) => {
                let alpn = facts.alpn.iter().map(|name| format!(", ALPN {name}"));
                let alpn: String = alpn.collect();
                self.add_ok(TLS, format!("{}, {}{alpn}", facts.version, facts.cipher));
                let chain = facts.chain.join(" < ");
                let server = format!("{}, until {}; chain: {chain}", facts.names, facts.ends);
                self.add_ok("server", server);
            }
            DialEvent::WebSocketOpened => self.add_ok(WEBSOCKET, "is open"),
            DialEvent::EndpointFailed(fault) => {
                self.add_skipped("port", &format!("{fault}; trying the next port"));
            }
        }
    }

    pub(super) fn add(&mut self, step: &'static str, result: Result<String, Fault>) {
        match result {
            Ok(detail) => self.add_ok(step, detail),
            Err(fault) => self.add_failed(step, &fault),
        }
    }

    pub(super) fn add_ok(&mut self, step: &'static str, detail: impl Into<String>) {
        self.record_step(step, StepStatus::Ok, detail.into(), None);
    }

    pub(super) fn add_failed(&mut self, step: &'static str, fault: &Fault) {
        self.worst = self.worst.or_worse(fault.exit);
        self.ok = false;
        self.exit = self.worst.code();
        self.record_step(step, StepStatus::Failed, fault.to_string(), Some(fault));
    }

    pub(super) fn add_skipped(&mut self, step: &'static str, why: &str) {
        self.record_step(step, StepStatus::Skipped, why.to_owned(), None);
    }

    /// Something to see to, with which a connection works today. People see it in the log or in a step.
    pub(super) fn add_warning(&mut self, text: String) {
        self.warnings.push(text);
    }

    fn record_step(
        &mut self,
        step: &'static str,
        status: StepStatus,
        detail: String,
        fault: Option<&Fault>,
    ) {
        let (word, style) = match status {
            StepStatus::Ok => ("ok", "32"),
            StepStatus::Failed => ("FAILED", "1;31"),
            StepStatus::Skipped => ("skipped", "33"),
        };
        if !self.json {
            let detail = one_line(&detail);
            self.print_line(&if self.colour {
                format!("\x1b[{style}m{word:<8}\x1b[0m{step}: {detail}")
            } else {
                format!("{word:<8}{step}: {detail}")
            });
        }
        self.steps.push(StepResult {
            step,
            status,
            detail,
            remedy: fault.and_then(|fault| fault.remedy.clone()),
            exit: fault.map(|fault| fault.exit.code()),
        });
    }

    /// Fails if standard output could not be written, with the exit code of a failed step if there is one.
    pub(super) fn finish(mut self) -> Result<Exit, Fault> {
        if self.json {
            let line = serde_json::to_string(&self).unwrap_or_default() + "\n";
            let result = EscapingWriter::stdout(stdio::stdout()).write_all(line.as_bytes());
            self.keep_write_error(result);
        } else {
            let count = |status| self.steps.iter().filter(|s| s.status == status).count();
            let all = self.steps.len();
            let line = match (count(StepStatus::Failed), count(StepStatus::Skipped)) {
                (0, 0) => format!("all {all} steps passed"),
                (0, skipped) => format!("{} steps passed, {skipped} skipped", all - skipped),
                (failed, _) => format!("{failed} of {all} steps failed"),
            };
            self.print_line(&line);
        }
        let Some(cause) = self.write_error else {
            return Ok(self.worst);
        };
        let exit = if self.ok { Exit::Io } else { self.worst };
        let message = format!("standard output cannot be written: {cause}");
        Err(Fault::permanent(exit, message)
            .with_remedy("redirect it to where there is space, or to /dev/null"))
    }

    fn print_line(&mut self, line: &str) {
        let result = stdio::stdout().write_all(format!("{line}\n").as_bytes());
        self.keep_write_error(result);
    }

    fn keep_write_error(&mut self, result: io::Result<()>) {
        if let Err(cause) = result
            && cause.kind() != io::ErrorKind::BrokenPipe
        {
            self.write_error.get_or_insert(cause);
        }
    }
}
