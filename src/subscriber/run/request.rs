//! The request of a run (`--request-topic`): when to publish it, and whether the broker has it. PURE.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::client::{ConnectionInfo, Delivery, RefusedRequest};
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::limits::MAX_PACKET;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;

/// Connections that the broker closed without a reason while the request was in flight, one after the other, after which
/// it is not sent again.
const MAX_CLOSES: u32 = 3;

/// How long nothing is sent after the broker took no message.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    /// To be sent from this moment on, once all filters are granted.
    Due(Instant),
    /// Sent on the present connection, and acknowledged until this moment.
    Sent(Instant),
    Acknowledged,
    /// The broker has refused it.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestAction {
    Nothing,
    Publish(Arc<OutgoingMessage>),
    /// No PUBACK came in time.
    CloseConnection,
}

/// Published once all filters are granted. Until it is acknowledged it is published again on each further connection.
#[derive(Debug)]
pub(super) struct Request {
    message: Arc<OutgoingMessage>,
    state: RequestState,
    operation_timeout: Duration,
    closes: u32,
    was_sent: bool,
}

impl Request {
    /// Under which the client reports what became of it; retained messages that are removed have others.
    pub(super) const ID: u64 = u64::MAX;

    pub(super) fn new(draft: Draft, operation_timeout: Duration, now: Instant) -> Self {
        Self {
            message: Arc::new(OutgoingMessage {
                id: Self::ID,
                draft,
                ..OutgoingMessage::default()
            }),
            state: RequestState::Due(now),
            operation_timeout,
            closes: 0,
            was_sent: false,
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.message.draft.topic
    }

    pub(super) fn payload_size(&self) -> usize {
        self.message.draft.payload.len()
    }

    /// An error, which completes "FLAG TOPIC: ", if the broker does not take a packet of this size.
    pub(super) fn handle_connected(&mut self, info: &ConnectionInfo) -> Result<(), String> {
        Arc::make_mut(&mut self.message).draft.qos = if info.connack.maximum_qos == Some(0) {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
        let max = info.connack.maximum_packet_size.map(usize::try_from);
        let max = max.and_then(Result::ok).unwrap_or(MAX_PACKET);
        let size = self.message.packet_size(info.is_v5, false);
        if size > max && !self.is_done() {
            self.state = RequestState::Refused;
            return Err(format!(
                "{size} bytes are above the broker's maximum packet size of {max}"
            ));
        }
        Ok(())
    }

    /// `closed`: the broker closed the connection without a reason. Returns `false` if it is not sent again, because the
    /// broker closes each connection on which it is sent.
    pub(super) fn handle_disconnected(&mut self, closed: bool, now: Instant) -> bool {
        if !self.is_in_flight() {
            return true;
        }
        self.closes = if closed { self.closes + 1 } else { 0 };
        if self.closes >= MAX_CLOSES {
            self.state = RequestState::Refused;
            return false;
        }
        self.state = RequestState::Due(now);
        true
    }

    /// Returns the refusal if the broker refuses it. An answer on a connection that has ended, or is about to be closed,
    /// counts as well; `is_current`: it is from the present one.
    pub(super) fn handle_delivery(
        &mut self,
        delivery: Delivery,
        is_current: bool,
        now: Instant,
    ) -> Option<RefusedRequest> {
        if self.is_done() {
            return None;
        }
        match delivery {
            Delivery::Done => {
                self.state = RequestState::Acknowledged;
                None
            }
            Delivery::NotNow => {
                if is_current && self.is_in_flight() {
                    self.state = RequestState::Due(now + PAUSE);
                }
                None
            }
            Delivery::Refused(refusal) => {
                self.state = RequestState::Refused;
                Some(refusal)
            }
        }
    }

    /// Bytes arrive from the broker, which may precede the PUBACK: it gets more time.
    pub(super) fn handle_progress(&mut self, now: Instant) {
        if self.is_in_flight() {
            self.state = RequestState::Sent(now + self.operation_timeout);
        }
    }

    /// `all_granted`: on the present connection. `is_delayed`: the PUBACK, which may be behind messages that wait for the
    /// output, gets more time.
    pub(super) fn next_action(
        &mut self,
        all_granted: bool,
        is_delayed: bool,
        now: Instant,
    ) -> RequestAction {
        match self.state {
            RequestState::Due(at) if all_granted && now >= at => {
                self.was_sent = true;
                self.state = RequestState::Sent(now + self.operation_timeout);
                RequestAction::Publish(Arc::clone(&self.message))
            }
            RequestState::Sent(until) if now >= until && is_delayed => {
                self.state = RequestState::Sent(now + self.operation_timeout);
                RequestAction::Nothing
            }
            RequestState::Sent(until) if now >= until => RequestAction::CloseConnection,
            _ => RequestAction::Nothing,
        }
    }

    pub(super) fn wake_at(&self, all_granted: bool) -> Option<Instant> {
        match self.state {
            RequestState::Due(at) => Some(at).filter(|_| all_granted),
            RequestState::Sent(until) => Some(until),
            RequestState::Acknowledged | RequestState::Refused => None,
        }
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, RequestState::Sent(_))
    }

    /// On any connection of this run.
    pub(super) fn was_sent(&self) -> bool {
        self.was_sent
    }

    /// Nothing is left to do: it is acknowledged or refused.
    pub(super) fn is_done(&self) -> bool {
        matches!(
            self.state,
            RequestState::Acknowledged | RequestState::Refused
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::common::mqtt::connack::Connack;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    fn request() -> (Request, Instant) {
        let now = Instant::now();
        let draft = Draft {
            topic: "a".into(),
            payload: b"{}".to_vec(),
            readings: 1,
            ..Draft::default()
        };
        (Request::new(draft, TIMEOUT, now), now)
    }

    fn connected(maximum_packet_size: Option<u32>, maximum_qos: Option<u8>) -> ConnectionInfo {
        ConnectionInfo {
            is_v5: true,
            by_fallback: false,
            port: None,
            connack: Connack {
                session_present: false,
                receive_maximum: None,
                server_keep_alive: None,
                maximum_packet_size,
                maximum_qos,
                retain_available: true,
                subscription_identifiers_available: true,
            },
        }
    }

    fn is_publish(action: &RequestAction) -> bool {
        matches!(action, RequestAction::Publish(_))
    }

    #[test]
    fn it_is_sent_once_all_filters_are_granted_and_again_until_it_is_acknowledged() {
        let (mut request, now) = request();
        assert_eq!(
            request.next_action(false, false, now),
            RequestAction::Nothing
        );
        assert_eq!(request.handle_connected(&connected(None, None)), Ok(()));
        for _ in 0..2 {
            let RequestAction::Publish(message) = request.next_action(true, false, now) else {
                panic!("not sent");
            };
            assert_eq!(message.draft.qos, Qos::AtLeastOnce);
            assert!(!message.draft.retain && *message.draft.topic == *"a");
            assert_eq!(
                request.next_action(true, false, now),
                RequestAction::Nothing
            );
            assert!(request.handle_disconnected(false, now));
        }
        assert!(is_publish(&request.next_action(true, false, now)));
        assert_eq!(request.handle_delivery(Delivery::Done, true, now), None);
        assert!(request.is_done() && request.handle_disconnected(true, now));
        assert_eq!(
            request.next_action(true, false, now),
            RequestAction::Nothing
        );
    }

    #[test]
    fn without_a_puback_the_connection_is_closed_unless_it_may_be_delayed() {
        let (mut request, now) = request();
        request.next_action(true, false, now);
        assert_eq!(request.wake_at(true), Some(now + TIMEOUT));
        let late = now + TIMEOUT;
        assert_eq!(
            request.next_action(true, true, late),
            RequestAction::Nothing
        );
        request.handle_progress(late + TIMEOUT);
        let later = late + 2 * TIMEOUT;
        assert_eq!(request.wake_at(true), Some(later));
        assert_eq!(
            request.next_action(true, false, later),
            RequestAction::CloseConnection
        );
    }

    #[test]
    fn a_broker_that_closes_each_connection_is_not_asked_for_ever() {
        let (mut request, now) = request();
        for (closed, is_sent_again) in [
            (true, true),
            (true, true),
            (false, true),
            (true, true),
            (true, true),
            (true, false),
        ] {
            assert!(is_publish(&request.next_action(true, false, now)));
            assert_eq!(request.handle_disconnected(closed, now), is_sent_again);
        }
        assert!(request.is_done());
    }

    #[test]
    fn after_an_exceeded_quota_nothing_is_sent_for_a_second() {
        let (mut request, now) = request();
        request.next_action(true, false, now);
        request.handle_delivery(Delivery::NotNow, true, now);
        assert_eq!(request.wake_at(true), Some(now + PAUSE));
        assert_eq!(request.wake_at(false), None);
        assert_eq!(
            request.next_action(true, false, now),
            RequestAction::Nothing
        );
        assert!(is_publish(&request.next_action(true, false, now + PAUSE)));
    }

    #[test]
    fn an_answer_of_a_connection_that_is_being_closed_counts_and_a_quota_of_one_does_not() {
        let (mut request, now) = request();
        request.next_action(true, false, now);
        request.handle_disconnected(false, now);
        request.handle_delivery(Delivery::NotNow, true, now);
        assert!(is_publish(&request.next_action(true, false, now)));
        request.handle_delivery(Delivery::NotNow, false, now);
        assert!(request.is_in_flight());
        request.handle_disconnected(false, now);
        request.handle_delivery(Delivery::Done, false, now);
        assert!(request.is_done());
    }

    #[test]
    fn a_broker_with_small_packets_does_not_get_it() {
        let (mut request, now) = request();
        let size = u32::try_from(request.message.packet_size(true, false)).unwrap();
        let fits = request.handle_connected(&connected(Some(size), Some(0)));
        assert_eq!(fits, Ok(()));
        let RequestAction::Publish(message) = request.next_action(true, false, now) else {
            panic!("not sent");
        };
        assert_eq!(message.draft.qos, Qos::AtMostOnce);
        request.handle_disconnected(false, now);
        let error = request.handle_connected(&connected(Some(size - 1), None));
        assert!(error.unwrap_err().contains("maximum packet size"));
        assert!(request.is_done());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send {
            all_granted: bool,
        },
        /// Of the present connection or an earlier one.
        Done,
        NotNow {
            is_current: bool,
        },
        Disconnected {
            closed: bool,
        },
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(|all_granted| Step::Send { all_granted }),
            Just(Step::Done),
            any::<bool>().prop_map(|is_current| Step::NotNow { is_current }),
            any::<bool>().prop_map(|closed| Step::Disconnected { closed }),
            (0..7u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_is_in_flight_once_at_a_time_and_never_again_after_its_acknowledgement(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let (mut request, mut now) = request();
            let (mut in_flight, mut was_sent, mut acknowledged) = (false, false, false);
            for step in steps {
                match step {
                    Step::Send { all_granted } => {
                        if is_publish(&request.next_action(all_granted, false, now)) {
                            prop_assert!(all_granted && !in_flight && !acknowledged);
                            (in_flight, was_sent) = (true, true);
                        }
                    }
                    Step::Done if was_sent => {
                        request.handle_delivery(Delivery::Done, false, now);
                        (in_flight, acknowledged) = (false, true);
                    }
                    Step::Done => {}
                    Step::NotNow { is_current } => {
                        request.handle_delivery(Delivery::NotNow, is_current, now);
                        in_flight &= !is_current;
                    }
                    Step::Disconnected { closed } => {
                        request.handle_disconnected(closed, now);
                        in_flight = false;
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                prop_assert_eq!(request.is_in_flight(), in_flight);
                prop_assert_eq!(request.was_sent(), was_sent);
                prop_assert!(request.is_done() || !acknowledged);
            }
        }
    }
}
