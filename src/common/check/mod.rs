//! `check`, the doctor: takes every step that a run takes, one after the other, and says what
//! works and what does not, with the cause and the next thing to do.
//!
//! It connects as a run does, through the same client, so that it finds what a run would find.
//! * `online` is the part that connects; `report` is what is told of it.
//!
//! A step that cannot be taken because an earlier one failed is named all the same.

mod online;
mod report;

use std::time::SystemTime;

use anyhow::Context as _;

use super::broker::aws_host;
use super::broker::profile::Profile;
use super::cli::check_args::CheckConfig;
use super::cli::config::ConnectionConfig;
use super::fault::{Exit, Fault};
use super::mqtt::age::EARLIEST_MS;
use super::runtime::clock::{clock, unix_ms, wall_clock};
use super::runtime::stdio;
use super::transport::credentials::files::Loaded;
use super::transport::{self, Handle, Passed, Step};
use online::Online;
use report::Report;

/// Checks, and says what was found.
///
/// # Errors
///
/// What kept it from starting, and a standard output that cannot be written.
pub fn run(config: &CheckConfig) -> anyhow::Result<Exit> {
    stdio::check_stdout("the result is printed there")?;
    let connection = &config.connection;
    let mut report = Report::new(connection.endpoint.to_string(), config.json);
    name(connection, &mut report);
    let now = wall_clock();
    check_clock(now, &mut report);
    let files_are_good = check_files(connection, now, &mut report);
    if !files_are_good {
        reach(connection, &mut report);
        for step in steps_after_tcp(config) {
            report.skipped(step, "needs the files");
        }
        return Ok(report.finish()?);
    }
    let mut online = Online::start(config).context("threads cannot be started")?;
    online.examine(&mut report);
    Ok(report.finish()?)
}

/// The broker, as the flags have it.
fn name(connection: &ConnectionConfig, report: &mut Report) {
    let ways = connection.endpoint.ways();
    let mut ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
    if connection.profile == Profile::Aws {
        ways.push("limits of AWS IoT Core".into());
    }
    if let Some(proxy) = &connection.proxy {
        ways.push(format!("proxy {proxy} (from {})", proxy.origin));
    }
    ways.extend(aws_host::hint(&connection.endpoint.host));
    report.ok("endpoint", ways.join(", "));
}

fn check_clock(now: SystemTime, report: &mut Report) {
    let shown = humantime::format_rfc3339_seconds(now);
    if unix_ms() >= EARLIEST_MS {
        report.ok("clock", shown.to_string());
    } else {
        let message = format!("the clock says {shown}, which is over");
        let fault = Fault::permanent(Exit::Config, message).with_remedy("set it, or start ntp");
        report.failed("clock", &fault);
    }
}

/// Whether certificate, key, CA and password file are as they should be.
fn check_files(connection: &ConnectionConfig, now: SystemTime, report: &mut Report) -> bool {
    let mut good = true;
    if connection.endpoint.tls {
        let (findings, loaded) = connection.files.examine(now);
        good = loaded.is_some();
        for finding in findings {
            match finding.result {
                Ok(detail) => report.ok(finding.what, detail),
                Err(fault) => {
                    report.failed(finding.what, &fault);
                    good = false;
                }
            }
        }
    } else {
        report.ok("files", "none are needed without TLS");
    }
    if let Some(file) = &connection.password {
        match file.read() {
            Ok(_) => report.ok("password file", file.path().display().to_string()),
            Err(fault) => {
                report.failed("password file", &fault);
                good = false;
            }
        }
    }
    good
}

/// Looks how far one gets without the files: up to TLS.
fn reach(connection: &ConnectionConfig, report: &mut Report) {
    let mut route = connection.route();
    route.endpoint.tls = false;
    route.endpoint.websocket = None;
    let deadline = clock() + connection.connect_timeout;
    let handle = Handle::default();
    let follow = &mut |passed| tell(&passed, report);
    let dialled = transport::dial(&route, &Loaded::default(), None, deadline, &handle, follow);
    if let Err(failed) = dialled {
        report.failed(step_name(failed.step), &failed.fault);
    }
}

fn steps_after_tcp(config: &CheckConfig) -> Vec<&'static str> {
    let mut steps = vec!["TLS", "CONNECT"];
    if config.connection.client_id_given {
        steps.push("client id");
    }
    if !config.topics.is_empty() {
        steps.extend(["publish", "subscribe"]);
    }
    steps
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Dns => "DNS",
        Step::Tcp => "TCP",
        Step::Proxy => "proxy",
        Step::Tls => "TLS",
        Step::WebSocket => "WebSocket",
    }
}

/// A step of the dial that went well.
fn tell(passed: &Passed, report: &mut Report) {
    match passed {
        Passed::Resolved(addresses) => {
            let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
            report.ok("DNS", all.join(", "));
        }
        Passed::Connected(address) => report.ok("TCP", address.to_string()),
        Passed::Tunnelled => report.ok("proxy", "has opened a tunnel"),
        Passed::Secured(facts) => {
            let alpn = match &facts.alpn {
                Some(name) => format!(", ALPN {name}"),
                None => String::new(),
            };
            report.ok("TLS", format!("{}, {}{alpn}", facts.version, facts.cipher));
            report.ok(
                "server",
                format!(
                    "{}, until {}; chain: {}",
                    facts.names,
                    facts.ends,
                    facts.chain.join(" < ")
                ),
            );
        }
        Passed::Upgraded => report.ok("WebSocket", "is open"),
        Passed::WentOn(fault) => {
            report.skipped("port", &format!("{fault}; going on to the next"));
        }
    }
}
