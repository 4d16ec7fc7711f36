//! Warnings about will and status, each once.

use log::warn;

use super::status_delivery::StatusResult;
use super::{ClientConfig, Delivery, RequestKind};

#[derive(Debug, Default)]
pub(super) struct StatusLog {
    has_failed: bool,
    is_delay_logged: bool,
}

impl StatusLog {
    /// A failure is logged again after a success.
    pub(super) fn log_result(&mut self, config: &ClientConfig, result: &StatusResult) {
        let topic = config.status.as_ref().map_or("", |status| &status.topic);
        let endpoint = &config.route.endpoint;
        let what = match result {
            StatusResult::Answered(Delivery::Done) => {
                self.has_failed = false;
                return;
            }
            StatusResult::Answered(Delivery::Refused(refusal)) => {
                let remedy = refusal.remedy(endpoint.profile, RequestKind::Publish);
                format!(
                    "refuses the status message on {topic:?}: {}; {remedy}",
                    refusal.reason
                )
            }
            StatusResult::Answered(Delivery::NotNow) => {
                format!("refuses the status message on {topic:?} now; see its quotas")
            }
            StatusResult::TimedOut => {
                format!("does not acknowledge the status message on {topic:?}; see its log")
            }
        };
        if !std::mem::replace(&mut self.has_failed, true) {
            warn!("{endpoint}: the broker {what}");
        }
    }

    pub(super) fn log_missing_delay(&mut self, config: &ClientConfig) {
        if !std::mem::replace(&mut self.is_delay_logged, true) {
            warn!(
                "{}: the connection uses MQTT 3.1.1, which has no --will-delay: the broker publishes the will at once",
                config.route.endpoint
            );
        }
    }
}
