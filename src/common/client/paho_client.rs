//! One Paho client, which makes one attempt and has at most one connection; it is never used again.
//! What Paho reports on its own threads becomes a command for the worker.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use paho_mqtt::{
    AsyncClient, ConnectToken, DeliveryToken, Error, MessageBuilder, Properties, PropertyCode,
    RetainHandling as PahoRetainHandling, SubscribeOptionsBuilder, SubscribeToken,
};

use super::paho_options::{connect_options, create_options, whole_seconds};
use super::paho_results::{delivery, subscription_outcome};
use super::status_delivery::{AfterStatus, StatusDelivery, StatusResult};
use super::worker_input::{DialAttempt, WorkerInput, WorkerInputKind};
use super::{ClientConfig, Delivery, RefusedRequest, RetainHandling};
use crate::common::mqtt::connack::Connack;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::limits::EXACTLY_ONCE_WINDOW;
use crate::common::mqtt::message_properties::MessageProperties;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::properties::{PropertyId, Value};
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::seq_property::SeqProperty;
use crate::common::mqtt::status_messages::StatusMessages;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::timed_receive::send;
use crate::common::transport::bridge::ConnectionEnd;

/// The maximum number of acknowledgements per wake-up. A wake-up for each would cost more than
/// everything else; one for half of a large window would leave the network idle meanwhile.
const MAX_WAKE_STRIDE: usize = 50;

/// Paho's return code for a publish without a connection (`MQTTASYNC_DISCONNECTED`).
const DISCONNECTED: i32 = -3;

/// Acknowledgements nearly always come in order, so usually only the first deliveries are polled.
/// At this interval all are, which in a large window costs more than sending.
pub(super) const SCAN_INTERVAL: Duration = Duration::from_millis(20);

enum ConnectState {
    Pending(ConnectToken),
    /// Paho has the CONNACK; the bridge's report of it may still be in the queue.
    Completed,
    Failed,
    Taken,
}

pub(super) struct PahoClient {
    pub(super) dial: DialAttempt,
    pub(super) started: Instant,
    pub(super) connection_end: Option<ConnectionEnd>,
    config: Arc<ClientConfig>,
    client: AsyncClient,
    connect: ConnectState,
    pub(super) connack: Option<Connack>,
    waker: Waker,
    deliveries: VecDeque<(u64, DeliveryToken)>,
    subscribes: Vec<(usize, SubscribeToken)>,
    pub(super) status: Option<StatusDelivery>,
    /// Status messages that were published on this connection.
    pub(super) status_count: u64,
    is_wake_requested: bool,
    wake_stride: usize,
    scanned_at: Instant,
    is_disconnecting: bool,
    /// The broker has not acknowledged the status message after CONNACK in time.
    pub(super) is_status_unanswered: bool,
}

struct WorkerWaker {
    generation: u64,
    commands: Sender<WorkerInput>,
}

impl Wake for WorkerWaker {
    fn wake(self: Arc<Self>) {
        let (generation, kind) = (self.generation, WorkerInputKind::CheckTokens);
        send(&self.commands, WorkerInput { generation, kind });
    }
}

impl PahoClient {
    pub(super) fn start(
        dial: DialAttempt,
        socket: OwnedFd,
        config: &Arc<ClientConfig>,
        password: Option<&str>,
        commands: &Sender<WorkerInput>,
    ) -> Result<Self, Error> {
        let client = AsyncClient::new(create_options(config, socket))?;
        let (generation, lost) = (dial.generation, commands.clone());
        client.set_connection_lost_callback(move |_| {
            let kind = WorkerInputKind::ConnectionLost;
            send(&lost, WorkerInput { generation, kind });
        });
        let connect = client.connect(connect_options(config, password, dial.v5, dial.clean));
        let waker = Waker::from(Arc::new(WorkerWaker {
            generation,
            commands: commands.clone(),
        }));
        Ok(Self {
            dial,
            started: instant_now(),
            connection_end: None,
            config: Arc::clone(config),
            client,
            connect: ConnectState::Pending(connect),
            connack: None,
            waker,
            deliveries: VecDeque::new(),
            subscribes: Vec::new(),
            status: None,
            status_count: 0,
            is_wake_requested: false,
            wake_stride: (config.max_in_flight / 4).min(MAX_WAKE_STRIDE),
            scanned_at: instant_now(),
            is_disconnecting: false,
            is_status_unanswered: false,
        })
    }

    /// Whether CONNECT succeeded, once; `None` while it is pending and afterwards.
    pub(super) fn take_connect_result(&mut self) -> Option<bool> {
        if let ConnectState::Pending(token) = &mut self.connect {
            let Poll::Ready(result) = poll_token(token, &self.waker) else {
                return None;
            };
            if result.is_ok() {
                self.connect = ConnectState::Completed;
            } else {
                self.connect = ConnectState::Failed;
                if self.connection_end.is_none() {
                    // If the bridge ended the connection, its report is in the queue already.
                    self.waker.wake_by_ref();
                    return None;
                }
            }
        }
        let is_success = match self.connect {
            ConnectState::Failed => false,
            ConnectState::Completed if self.connack.is_some() => true,
            _ => return None,
        };
        self.connect = ConnectState::Taken;
        Some(is_success)
    }

    pub(super) fn handle_connack(&mut self, connack: Connack) {
        if let Some(max) = connack.receive_maximum {
            self.wake_stride = self.wake_stride.min(usize::from(max) / 4);
        }
        self.connack = Some(connack);
    }

    pub(super) fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Dropping the client now would leak its socket.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.connect, ConnectState::Pending(_))
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.connect, ConnectState::Taken) && self.connack.is_some()
    }

    /// Returns whether there is a PUBACK to wait for. `next_step` is given back when the wait is over.
    pub(super) fn publish_status(
        &mut self,
        next_step: AfterStatus,
        until: Option<Instant>,
    ) -> bool {
        let Some(status) = &self.config.status else {
            return false;
        };
        let payload = match next_step {
            AfterStatus::ReportConnected(_) => &status.online,
            AfterStatus::Disconnect => &status.offline,
        };
        let message = MessageBuilder::new()
            .topic(&*status.topic)
            .payload(payload.as_slice())
            .qos(i32::from(StatusMessages::QOS.level()))
            .retained(true)
            .finalize();
        let Ok(token) = self.client.try_publish(message) else {
            return false;
        };
        self.status_count += 1;
        self.status = Some(StatusDelivery {
            token: Some(token),
            until,
            next_step,
        });
        true
    }

    /// What became of the status message, once.
    pub(super) fn take_status_result(&mut self) -> Option<(AfterStatus, StatusResult)> {
        let status = self.status.as_mut()?;
        let result = match poll_token(status.token.as_mut()?, &self.waker) {
            Poll::Ready(result) => {
                let Some(delivery) = delivery(result) else {
                    // The end of the connection will be reported.
                    status.token = None;
                    status.until = None;
                    return None;
                };
                StatusResult::Answered(delivery)
            }
            Poll::Pending if status.until.is_some_and(|until| instant_now() >= until) => {
                StatusResult::TimedOut
            }
            Poll::Pending => return None,
        };
        let next_step = status.next_step;
        self.status = None;
        Some((next_step, result))
    }

    /// CONNACK has come, and the status message after it is not acknowledged.
    pub(super) fn is_online_status_pending(&self) -> bool {
        let status = self.status.as_ref();
        status.is_some_and(|status| matches!(status.next_step, AfterStatus::ReportConnected(_)))
    }

    pub(super) fn status_wait_ends_at(&self) -> Option<Instant> {
        self.status.as_ref()?.until
    }

    pub(super) fn publish(&mut self, id: u64, message: &OutgoingMessage) -> Option<Delivery> {
        let draft = &message.draft;
        if !self.dial.v5 && draft.qos == Qos::ExactlyOnce {
            self.wake_stride = self.wake_stride.min(EXACTLY_ONCE_WINDOW / 4);
        }
        let mut builder = MessageBuilder::new()
            .topic(&*draft.topic)
            .payload(draft.payload.as_slice())
            .qos(i32::from(draft.qos.level()))
            .retained(draft.retain);
        if self.dial.v5
            && (self.config.sequence
                || message.expires_at.is_some()
                || draft.is_batch()
                || draft.properties.is_some())
        {
            builder = builder.properties(self.publish_properties(message));
        }
        match self.client.try_publish(builder.finalize()) {
            Ok(token) => {
                self.deliveries.push_back((id, token));
                None
            }
            // The end of the connection will be reported, and the message sent again.
            Err(Error::Publish(DISCONNECTED, _)) => None,
            Err(_) => Some(Delivery::NotNow),
        }
    }

    /// A property that Paho rejects is omitted: the message matters more.
    fn publish_properties(&self, message: &OutgoingMessage) -> Properties {
        let mut properties = Properties::new();
        if self.config.sequence {
            let seq = message.to_seq_property().to_string();
            let code = PropertyCode::UserProperty;
            let _ = properties.push_string_pair(code, SeqProperty::NAME, &seq);
        }
        if message.draft.is_batch() {
            let _ = properties.push_string(PropertyCode::ContentType, Draft::BATCH_TYPE);
        }
        if let Some(given) = &message.draft.properties {
            push_given_properties(&mut properties, given);
        }
        if let Some(at) = message.expires_at {
            let left = at.saturating_duration_since(instant_now());
            let seconds = whole_seconds(left.min(self.config.max_expiry)).max(1);
            let _ = properties.push_u32(PropertyCode::MessageExpiryInterval, seconds);
        }
        properties
    }

    /// Sends SUBSCRIBE. A session that outlives its connections gets retained messages only with the first SUBSCRIBE.
    pub(super) fn subscribe(&mut self, filter: usize, text: String, qos: Qos) {
        let qos = i32::from(qos.level());
        let is_persistent = self.config.session_expiry.is_some();
        let handling = self.config.retain_handling;
        let handling = handling.or(is_persistent.then_some(RetainHandling::New));
        let retain_as_published = self.config.retain_as_published;
        let identifier = self.config.subscription_identifier;
        let has_options = handling.is_some() || retain_as_published || identifier.is_some();
        let token = if self.dial.v5 && has_options {
            let mut options = SubscribeOptionsBuilder::default();
            options.retain_as_published(retain_as_published);
            options.retain_handling(match handling {
                None | Some(RetainHandling::Always) => PahoRetainHandling::SendRetainedOnSubscribe,
                Some(RetainHandling::New) => PahoRetainHandling::SendRetainedOnNew,
                Some(RetainHandling::Never) => PahoRetainHandling::DontSendRetained,
            });
            let properties = identifier.map(|identifier| {
                let mut properties = Properties::new();
                // Cannot fail for a number.
                let _ = properties.push_int(PropertyCode::SubscriptionIdentifier, identifier);
                properties
            });
            let options = options.finalize();
            self.client
                .subscribe_with_options(text, qos, options, properties)
        } else {
            self.client.subscribe(text, qos)
        };
        self.subscribes.push((filter, token));
    }

    pub(super) fn unsubscribe(&self, filters: &[String]) {
        for filter in filters {
            drop(self.client.unsubscribe(filter.as_str()));
        }
    }

    /// DISCONNECT is sent by Paho, or by the bridge, which knows what is still to be acknowledged.
    pub(super) fn begin_disconnect(&mut self, by_bridge: bool) {
        if !by_bridge {
            drop(self.client.disconnect(None));
        }
        self.is_disconnecting = true;
    }

    /// Everything, DISCONNECT last, has been sent or could not be. Paho's token comes a second later.
    pub(super) fn has_disconnect_finished(&self) -> bool {
        self.is_disconnecting && self.connection_end.is_some()
    }

    /// Closes the connection without DISCONNECT. Paho notices.
    pub(super) fn close_connection(&self) {
        self.dial.handle.cancel();
    }

    /// The deliveries that are done; the worker is woken for the next ones. Those that failed
    /// without a reason code are omitted: the connection is ending.
    pub(super) fn take_deliveries(&mut self) -> Vec<(u64, Delivery)> {
        let mut done = Vec::new();
        let now = instant_now();
        let scan_all = now >= self.scanned_at + SCAN_INTERVAL;
        if scan_all {
            self.scanned_at = now;
        }
        loop {
            let mut take = |(id, token): &mut (u64, DeliveryToken)| {
                let Poll::Ready(result) = poll_token(token, Waker::noop()) else {
                    return false;
                };
                done.extend(delivery(result).map(|delivery| (*id, delivery)));
                true
            };
            if scan_all {
                self.deliveries.retain_mut(|delivery| !take(delivery));
            }
            while self.deliveries.front_mut().is_some_and(&mut take) {
                self.deliveries.pop_front();
            }
            if self.wake_on_delivery(&mut done) {
                return done;
            }
        }
    }

    pub(super) fn take_deliveries_unless_wake_requested(&mut self) -> Vec<(u64, Delivery)> {
        if self.is_wake_requested {
            return Vec::new();
        }
        self.take_deliveries()
    }

    /// Has the worker woken when the delivery one stride ahead, or the last one, is done. Returns
    /// `false` if it is done already.
    fn wake_on_delivery(&mut self, done: &mut Vec<(u64, Delivery)>) -> bool {
        let last = self.deliveries.len().saturating_sub(1);
        let index = self.wake_stride.min(last);
        let Some((id, token)) = self.deliveries.get_mut(index) else {
            self.is_wake_requested = false;
            return true;
        };
        let Poll::Ready(result) = poll_token(token, &self.waker) else {
            self.is_wake_requested = true;
            return true;
        };
        done.extend(delivery(result).map(|delivery| (*id, delivery)));
        self.deliveries.remove(index);
        false
    }

    pub(super) fn take_subscribe_answers(&mut self) -> Vec<(usize, Result<u8, RefusedRequest>)> {
        let mut answers = Vec::new();
        self.subscribes.retain_mut(|(filter, token)| {
            let Poll::Ready(result) = poll_token(token, &self.waker) else {
                return true;
            };
            let was_refused = || self.dial.handle.take_refused_subscribe();
            answers
                .extend(subscription_outcome(result, was_refused).map(|answer| (*filter, answer)));
            false
        });
        answers
    }
}

fn push_given_properties(properties: &mut Properties, given: &MessageProperties) {
    for (property, value) in given.all() {
        let _ = match (property, value) {
            (PropertyId::PayloadFormatIndicator, Value::Number(format)) => {
                properties.push_byte(PropertyCode::PayloadFormatIndicator, u8::from(format == 1))
            }
            (PropertyId::ContentType, Value::Text(text)) => {
                properties.push_string(PropertyCode::ContentType, text)
            }
            (PropertyId::ResponseTopic, Value::Text(text)) => {
                properties.push_string(PropertyCode::ResponseTopic, text)
            }
            (PropertyId::CorrelationData, Value::Binary(bytes)) => {
                properties.push_binary(PropertyCode::CorrelationData, bytes)
            }
            (PropertyId::UserProperty, Value::Pair(name, value)) => {
                properties.push_string_pair(PropertyCode::UserProperty, name, value)
            }
            _ => Ok(()),
        };
    }
}

fn poll_token<F: Future + Unpin>(token: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(token).poll(&mut Context::from_waker(waker))
}
