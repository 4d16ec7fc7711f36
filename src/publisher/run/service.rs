//! The publisher as a service: what it reports to the service manager, and how it reloads.

use std::time::{Duration, Instant};

use log::{info, warn};

use crate::common::client::CredentialChange;
use crate::common::connection::driver::ConnectionDriver;
use crate::common::connection::reload::{self, ReloadResult, Renewable};
use crate::common::connection::state::ConnectionStateMachine;
use crate::common::connection::status_text::{self, group_thousands};
use crate::common::fault::Fault;
use crate::common::runtime::service_manager::ServiceManager;
use crate::publisher::outbox::Outbox;
use crate::publisher::outbox::types::PoisonEvidence;

#[derive(Debug)]
pub(super) struct Service {
    pub(super) manager: ServiceManager,
    /// The connection is to be replaced once nothing is in flight, or then.
    renew_by: Option<Instant>,
    /// How long to wait for the acknowledgements of what is in flight.
    ack_timeout: Duration,
}

impl Service {
    pub(super) fn new(manager: ServiceManager, ack_timeout: Duration) -> Self {
        Self {
            manager,
            ack_timeout,
            renew_by: None,
        }
    }

    /// `is_stored`: the first reading is safe in the queue.
    pub(super) fn report(
        &mut self,
        connection: &ConnectionStateMachine,
        is_stored: bool,
        (waiting, delivered): (usize, u64),
        now: Instant,
    ) {
        let status = || {
            let connection = status_text::describe(connection);
            let waiting = group_thousands(waiting as u64);
            let delivered = group_thousands(delivered);
            format!("{connection}; {waiting} wait, {delivered} delivered")
        };
        let is_ready = connection.was_ever_online() || is_stored;
        self.manager.update(is_ready, status, now);
    }

    pub(super) fn begin_reload(
        &mut self,
        changed_settings: &Result<Vec<String>, Fault>,
        driver: &ConnectionDriver,
        now: Instant,
    ) {
        self.manager.begin_reload(now);
        if let Some(warning) = reload::describe_changed_settings(changed_settings) {
            warn!("{warning}");
        }
        driver.client().reload_credentials(driver.generation());
    }

    pub(super) fn handle_reloaded_credentials(
        &mut self,
        (reloaded, generation): (&Result<CredentialChange, Fault>, u64),
        renewable: Renewable,
        driver: &mut ConnectionDriver,
        outbox: &mut Outbox,
        now: Instant,
    ) {
        let user = driver.credential_user(generation);
        match reload::evaluate(reloaded, user, renewable) {
            ReloadResult::Renew => {
                let until = now + self.ack_timeout;
                outbox.pause(until);
                self.renew_by = Some(until);
                return;
            }
            ReloadResult::RestartAttempt => {
                info!("{}", reload::ATTEMPT_RESTARTED);
                driver.renew(now);
                return;
            }
            ReloadResult::Done(text) => info!("{text}"),
            ReloadResult::NotDone(text) => {
                warn!("{text}");
                // The open connection stays, also if an earlier reload was about to replace it.
                if self.renew_by.take().is_some() {
                    outbox.pause(now);
                }
            }
        }
        self.manager.end_reload(now);
    }

    /// Replaces the connection by one with the new certificate when nothing is in flight, so nothing is sent twice.
    pub(super) fn renew_connection_if_due(
        &mut self,
        driver: &mut ConnectionDriver,
        outbox: &mut Outbox,
        now: Instant,
    ) {
        let Some(until) = self.renew_by else { return };
        if outbox.in_flight_messages().is_empty() || now >= until {
            self.renew_by = None;
            info!("{}", reload::CONNECTING_AGAIN);
            outbox.handle_disconnected(PoisonEvidence::Unrelated, now);
            driver.renew(now);
        }
    }

    /// A connection that was to be replaced has been, or has ended.
    pub(super) fn handle_connection_update(&mut self, now: Instant) {
        self.renew_by = None;
        self.manager.end_reload(now);
    }

    pub(super) fn begin_stop(&mut self, within: Duration, now: Instant) {
        self.manager.stop("delivering what it can", within, now);
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        [self.manager.wake_at(), self.renew_by]
            .into_iter()
            .flatten()
            .min()
    }
}
