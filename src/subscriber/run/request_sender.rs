//! Publishes the request of a run through the client, and logs what keeps the broker from taking it.

use std::fmt::Display;
use std::time::{Duration, Instant};

use log::error;

use super::request::{Request, RequestAction};
use crate::common::client::{ConnectionInfo, Delivery, RequestKind};
use crate::common::connection::driver::ConnectionDriver;
use crate::common::connection::unexplained_closes::PendingRequest;
use crate::common::escape::quoted;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::subscriber::config::Config;

/// Does nothing in a run without `--request-topic`. An exit code that a method returns ends the run; its cause has been
/// logged.
pub(super) struct RequestSender<'a> {
    config: &'a Config,
    request: Option<Request>,
}

impl<'a> RequestSender<'a> {
    pub(super) fn new(config: &'a Config, now: Instant) -> Self {
        let timeout = config.connection.operation_timeout;
        let draft = config.request.clone();
        Self {
            config,
            request: draft.map(|draft| Request::new(draft, timeout, now)),
        }
    }

    pub(super) fn is_given(&self) -> bool {
        self.request.is_some()
    }

    /// Returns why to close the connection, if it has to be closed.
    pub(super) fn handle_timeout(
        &mut self,
        driver: &ConnectionDriver,
        all_granted: bool,
        is_delayed: bool,
        now: Instant,
    ) -> Option<Fault> {
        let request = self.request.as_mut()?;
        match request.next_action(all_granted, is_delayed, now) {
            RequestAction::Nothing => None,
            RequestAction::Publish(message) => {
                let messages = vec![(Request::ID, message)];
                driver.client().publish(driver.generation(), messages);
                None
            }
            RequestAction::CloseConnection => {
                let connection = &self.config.connection;
                let message = format!(
                    "{}: no PUBACK for the request to {} within --operation-timeout {:?}; closing the connection",
                    connection.endpoint,
                    quoted(request.topic()),
                    connection.operation_timeout
                );
                let fault = Fault::passing(Exit::Unavailable, message);
                Some(fault.with_kind(FaultCause::TimedOut))
            }
        }
    }

    /// `is_current`: on the present connection.
    pub(super) fn handle_delivery(
        &mut self,
        delivery: Delivery,
        is_current: bool,
        now: Instant,
    ) -> Option<Exit> {
        let request = self.request.as_mut()?;
        let refusal = request.handle_delivery(delivery, is_current, now)?;
        let profile = self.config.connection.profile;
        let remedy = refusal.remedy(profile, RequestKind::Publish);
        let cause = format!("the broker refuses the request: {}", refusal.reason);
        Some(self.fail(refusal.exit(), format!("{cause}; {remedy}")))
    }

    pub(super) fn handle_progress(&mut self, now: Instant) {
        if let Some(request) = &mut self.request {
            request.handle_progress(now);
        }
    }

    pub(super) fn handle_connected(&mut self, info: &ConnectionInfo) -> Option<Exit> {
        let cause = self.request.as_mut()?.handle_connected(info).err()?;
        Some(self.fail(Exit::Data, format!("{cause}; give a shorter request")))
    }

    /// `closed`: the broker closed the connection without a reason.
    pub(super) fn handle_disconnected(&mut self, closed: bool, now: Instant) -> Option<Exit> {
        if self.request.as_mut()?.handle_disconnected(closed, now) {
            return None;
        }
        let rules = self.config.connection.profile.access_rules();
        let cause = format!(
            "the broker closes each connection on which the request is published; does {rules} let this client publish \
             there, and is the request within the broker's limits?"
        );
        Some(self.fail(Exit::Refused, cause))
    }

    /// The end of the run. What has ended it otherwise is no concern of the request.
    pub(super) fn handle_end(&mut self, exit: Option<Exit>) -> Option<Exit> {
        let is_explained = !matches!(exit, None | Some(Exit::Success | Exit::TimedOut));
        if is_explained || !self.is_open() {
            return None;
        }
        let was_sent = self.request.as_ref().is_some_and(Request::was_sent);
        let cause = if was_sent {
            "the broker has not acknowledged the request before the end of the run, and may have taken it; allow it \
             more time with --timeout and --operation-timeout"
        } else {
            "the request was not published before the end of the run; check that the broker grants each --topic"
        };
        Some(self.fail(Exit::Unavailable, cause))
    }

    fn fail(&self, exit: Exit, cause: impl Display) -> Exit {
        let topic = self.request.as_ref().map_or("", Request::topic);
        error!(code = exit.code(); "--request-topic {}: {cause}", quoted(topic));
        exit
    }

    pub(super) fn pending(&self) -> Option<PendingRequest<'_>> {
        let request = self.request.as_ref()?;
        let pending = PendingRequest::Publish(request.topic(), request.payload_size());
        request.is_in_flight().then_some(pending)
    }

    pub(super) fn wake_at(&self, all_granted: bool) -> Option<Instant> {
        self.request.as_ref()?.wake_at(all_granted)
    }

    /// The request is neither acknowledged nor refused.
    pub(super) fn is_open(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|request| !request.is_done())
    }

    /// How long a run that has succeeded otherwise waits for it: `--operation-timeout`, and not beyond `deadline`.
    pub(super) fn end_timeout(&self, deadline: Option<Instant>, now: Instant) -> Option<Duration> {
        let timeout = self.config.connection.operation_timeout;
        let left = deadline.map_or(timeout, |at| at.saturating_duration_since(now));
        self.is_open().then_some(timeout.min(left))
    }

    /// `until`, if the end of the run still waits for it.
    pub(super) fn end_limit(&self, until: Instant, is_stopping: bool) -> Option<Instant> {
        (self.is_open() && !is_stopping).then_some(until)
    }

    /// Whether the end of the run waits for it: after a signal only if it has been sent.
    pub(super) fn is_awaited(&self, is_stopping: bool) -> bool {
        let request = self.request.as_ref();
        let is_sent = request.is_some_and(Request::is_in_flight);
        is_sent || (self.is_open() && !is_stopping)
    }
}
