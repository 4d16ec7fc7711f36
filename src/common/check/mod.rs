//! The `check` command: takes each step of a run in turn and reports what works and what does not,
//! with the cause and the remedy. It connects through the same client as a run, so that it meets
//! the faults that a run would meet. Steps that an earlier failure makes impossible are listed too.

mod connection;
mod online;
mod report;
pub mod status;

use std::time::SystemTime;

use anyhow::Context as _;

use super::broker::aws_host;
use super::broker::profile::Profile;
use super::cli::check_command_args::ConnectionCheckConfig;
use super::cli::connection_config::ConnectionConfig;
use super::fault::{Exit, Fault};
use super::mqtt::two_clock_time::EARLIEST_MS;
use super::runtime::clock::{instant_now, unix_ms, wall_clock};
use super::runtime::stdio;
use super::transport::credentials::TlsCredentials;
use super::transport::{self, ConnectionHandle};
use connection::CheckConnection;
use online::OnlineCheck;
use report::CheckReport;

pub fn run(config: &ConnectionCheckConfig) -> anyhow::Result<Exit> {
    stdio::check_stdout("the result is printed there")?;
    let connection = &config.connection;
    let mut report = CheckReport::new(connection.endpoint.to_string(), config.json);
    report_endpoint(connection, &mut report);
    let now = wall_clock();
    check_clock(now, &mut report);
    if check_files(connection, now, &mut report) {
        let connection = CheckConnection::start(config).context("threads cannot be started")?;
        OnlineCheck { config, connection }.run(&mut report);
    } else {
        check_network(connection, &mut report);
        for step in report::steps_after_tcp(config) {
            report.add_skipped(step, "needs the files");
        }
    }
    Ok(report.finish()?)
}

fn report_endpoint(connection: &ConnectionConfig, report: &mut CheckReport) {
    let endpoints = connection.endpoint.endpoints_to_try();
    let mut details: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    if connection.profile == Profile::Aws {
        details.push("limits of AWS IoT Core".into());
    }
    if let Some(proxy) = &connection.proxy {
        details.push(format!("proxy {proxy} (from {})", proxy.origin));
    }
    let hint = aws_host::hint(&connection.endpoint.host);
    details.extend(hint.clone());
    report.add_ok("endpoint", details.join(", "));
    if let Some(hint) = hint {
        report.add_warning(hint);
    }
}

fn check_clock(now: SystemTime, report: &mut CheckReport) {
    let now = humantime::format_rfc3339_seconds(now);
    if unix_ms() >= EARLIEST_MS {
        report.add_ok("clock", now.to_string());
    } else {
        let message = format!("the system clock ({now}) is in the past");
        let fault = Fault::permanent(Exit::Config, message).with_remedy("set it or enable NTP");
        report.add_failed("clock", &fault);
    }
}

fn check_files(connection: &ConnectionConfig, now: SystemTime, report: &mut CheckReport) -> bool {
    let mut are_good = true;
    if connection.endpoint.tls {
        let (findings, loaded) = connection.files.examine(now);
        are_good = loaded.is_some();
        for finding in findings {
            are_good &= finding.result.is_ok();
            report.add(finding.what, finding.result);
        }
        if let Some(loaded) = &loaded {
            report.days_left = loaded.days_left(now);
            if loaded.check_dates(now).is_ok()
                && let Some(warning) = loaded.expiry_warning(now)
            {
                report.add_warning(warning.1);
            }
        }
    } else {
        report.add_ok("files", "none are needed without TLS");
    }
    if let Some(file) = &connection.password {
        let result = file.read().map(|_| file.path().display().to_string());
        are_good &= result.is_ok();
        report.add("password file", result);
    }
    are_good
}

fn check_network(connection: &ConnectionConfig, report: &mut CheckReport) {
    let mut route = connection.route();
    route.endpoint.tls = false;
    route.endpoint.websocket = None;
    let deadline = instant_now() + connection.connect_timeout;
    let handle = ConnectionHandle::default();
    let credentials = TlsCredentials::default();
    let on_passed = &mut |passed| report.handle_progress(&passed);
    if let Err(failed) = transport::dial(&route, &credentials, None, deadline, &handle, on_passed) {
        report.add_failed(report::step_name(failed.step), &failed.fault);
    }
}
