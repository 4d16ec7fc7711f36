//! One Paho client, from its creation to its end: one attempt, at most one connection.
//!
//! A session is never used again. Everything Paho says on its own threads is turned into a
//! command for the worker; nothing is decided or waited for there.

use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use paho_mqtt::{
    AsyncClient, ConnectToken, DeliveryToken, Error, MessageBuilder, Properties, PropertyCode,
    RetainHandling, SubscribeOptionsBuilder, SubscribeToken,
};

use super::answers::{delivery, subscription};
use super::worker::Command;
use super::{Config, Delivery, Refusal, options};
use crate::common::broker::endpoint::Endpoint;
use crate::common::mqtt::connack::Connack;
use crate::common::mqtt::limits::EXACTLY_ONCE_WINDOW;
use crate::common::mqtt::message::{Draft, Message, Qos, SeqProperty};
use crate::common::runtime::clock::clock;
use crate::common::transport::Handle;
use crate::common::transport::bridge::Severed;

/// Acknowledgements for which the worker is woken once, at most. A wake for each would cost more than
/// the rest of its way; a wake for half of a large window leaves the line idle meanwhile.
const STRIDE: usize = 50;

/// Paho's return code for a publish without a connection (`MQTTASYNC_DISCONNECTED`).
const DISCONNECTED: i32 = -3;

/// Acknowledgements come in order, nearly always: so often all deliveries are looked at for one that is
/// done before its turn, not only the first ones. In a large window looking costs more than sending.
pub(super) const SWEEP: Duration = Duration::from_millis(20);

/// What the worker waits for on a session.
enum Connect {
    Pending(ConnectToken),
    /// The client library knows that the broker has accepted; what the broker said is still on its way
    /// from the bridge.
    Completed,
    Failed(Error),
    Reported,
}

/// A connection on which nothing has been said yet.
pub(super) struct Dialled {
    /// The number of the dial.
    pub(super) number: u64,
    pub(super) way: Endpoint,
    /// Whether a client certificate was shown.
    pub(super) certified: bool,
    /// The client's end of it.
    pub(super) socket: OwnedFd,
    /// A hold on it.
    pub(super) handle: Arc<Handle>,
    /// MQTT 5 is spoken on it, not 3.1.1.
    pub(super) v5: bool,
}

/// One Paho client.
pub(super) struct Session {
    pub(super) generation: u64,
    /// Which of the dials of the generation it came of.
    pub(super) dial: u64,
    /// By which way it reaches the broker.
    pub(super) way: Endpoint,
    /// Whether a client certificate was shown.
    pub(super) certified: bool,
    /// The connection below it.
    pub(super) handle: Arc<Handle>,
    /// What the broker said when it accepted.
    connack: Option<Connack>,
    /// How that has ended.
    pub(super) severed: Option<Severed>,
    client: AsyncClient,
    connect: Connect,
    waker: Waker,
    deliveries: VecDeque<(u64, DeliveryToken)>,
    armed: bool,
    swept_at: Instant,
    subscribes: Vec<(usize, SubscribeToken)>,
    disconnecting: bool,
    sequence: bool,
    persistent: bool,
    retain_as_published: bool,
    max_expiry: Duration,
    v5: bool,
    /// When CONNECT was sent.
    pub(super) started: Instant,
    /// So many deliveries ahead is the one that wakes the worker.
    stride: usize,
}

/// Wakes the worker when a token completes.
struct Notify {
    generation: u64,
    commands: Mutex<Sender<Command>>,
}

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        send(
            &self.commands.lock().unwrap_or_else(PoisonError::into_inner),
            Command::Wake {
                generation: self.generation,
            },
        );
    }
}

fn send(commands: &Sender<Command>, command: Command) {
    // Without a worker the process is ending.
    let _ = commands.send(command);
}

impl Session {
    /// Creates a client on a connection and says CONNECT.
    pub(super) fn start(
        generation: u64,
        dialled: Dialled,
        config: &Config,
        password: Option<&str>,
        commands: &Sender<Command>,
    ) -> Result<Self, Error> {
        let v5 = dialled.v5;
        let client = AsyncClient::new(options::create(config, dialled.socket))?;
        let lost = commands.clone();
        client.set_connection_lost_callback(move |_| send(&lost, Command::Lost { generation }));
        let connect = client.connect(options::connect(config, password, v5));
        let waker = Waker::from(Arc::new(Notify {
            generation,
            commands: Mutex::new(commands.clone()),
        }));
        Ok(Self {
            generation,
            dial: dialled.number,
            way: dialled.way,
            certified: dialled.certified,
            handle: dialled.handle,
            connack: None,
            severed: None,
            client,
            connect: Connect::Pending(connect),
            waker,
            deliveries: VecDeque::new(),
            armed: false,
            swept_at: clock(),
            subscribes: Vec::new(),
            disconnecting: false,
            sequence: config.sequence,
            persistent: config.session_expiry.is_some(),
            retain_as_published: config.retain_as_published,
            max_expiry: config.max_expiry,
            v5,
            started: clock(),
            stride: (config.max_in_flight / 4).min(STRIDE),
        })
    }

    /// What has become of the connect; `None` while it is under way and after it has been
    /// reported.
    pub(super) fn connect_result(&mut self) -> Option<Result<(), Error>> {
        if let Connect::Pending(token) = &mut self.connect {
            let Poll::Ready(result) = poll(token, &self.waker) else {
                return None;
            };
            self.connect = match result {
                Ok(_) => Connect::Completed,
                Err(error) => Connect::Failed(error),
            };
            if self.severed.is_none() && matches!(self.connect, Connect::Failed(_)) {
                // If the bridge ended the connection, why is in the queue already: it comes first.
                self.waker.wake_by_ref();
                return None;
            }
        }
        match std::mem::replace(&mut self.connect, Connect::Reported) {
            Connect::Failed(error) => Some(Err(error)),
            Connect::Completed if self.connack.is_some() => Some(Ok(())),
            other => {
                self.connect = other;
                None
            }
        }
    }

    /// The broker has accepted; the client library is about to know it.
    pub(super) fn accept(&mut self, connack: Connack) {
        if let Some(most) = connack.receive_maximum {
            self.stride = self.stride.min(usize::from(most) / 4);
        }
        self.connack = Some(connack);
    }

    /// What the broker said when it accepted.
    pub(super) fn connack(&self) -> Option<&Connack> {
        self.connack.as_ref()
    }

    /// Whether messages are in flight.
    pub(super) fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Whether the connect is still under way: then dropping the client would leak its
    /// socket.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.connect, Connect::Pending(_))
    }

    /// Hands a message to Paho; an immediate refusal comes back.
    pub(super) fn publish(&mut self, name: u64, message: &Message) -> Option<Delivery> {
        let draft = &message.draft;
        if !self.v5 && draft.qos == Qos::ExactlyOnce {
            self.stride = self.stride.min(EXACTLY_ONCE_WINDOW / 4);
        }
        let mut builder = MessageBuilder::new()
            .topic(&*draft.topic)
            .payload(draft.payload.as_slice())
            .qos(i32::from(draft.qos.level()))
            .retained(draft.retain);
        if self.v5 && (self.sequence || message.expires_at.is_some() || draft.is_batch()) {
            builder = builder.properties(self.properties(message));
        }
        match self.client.try_publish(builder.finalize()) {
            Ok(token) => {
                self.deliveries.push_back((name, token));
                None
            }
            // Lost: the connection's end will be reported, and the message sent again then.
            Err(Error::Publish(DISCONNECTED, _)) => None,
            Err(_) => Some(Delivery::NotNow),
        }
    }

    /// What goes along with a message in MQTT 5. A value that the library does not take is
    /// left out: the message matters more.
    fn properties(&self, message: &Message) -> Properties {
        let mut properties = Properties::new();
        if self.sequence {
            let seq = message.seq_property().to_string();
            let _ =
                properties.push_string_pair(PropertyCode::UserProperty, SeqProperty::NAME, &seq);
        }
        if message.draft.is_batch() {
            let _ = properties.push_string(PropertyCode::ContentType, Draft::BATCH_TYPE);
        }
        if let Some(at) = message.expires_at {
            let left = at
                .saturating_duration_since(clock())
                .min(self.max_expiry)
                .as_secs_f64()
                .ceil()
                .max(1.0);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates"
            )]
            let _ = properties.push_u32(PropertyCode::MessageExpiryInterval, left as u32);
        }
        properties
    }

    /// Sends one SUBSCRIBE. To a session that outlives the connection retained messages come once,
    /// with the first of them.
    pub(super) fn subscribe(&mut self, filter: usize, text: String, qos: Qos) {
        let qos = i32::from(qos.level());
        let token = if self.v5 && (self.persistent || self.retain_as_published) {
            let mut options = SubscribeOptionsBuilder::default();
            options.retain_as_published(self.retain_as_published);
            if self.persistent {
                options.retain_handling(RetainHandling::SendRetainedOnNew);
            }
            let options = options.finalize();
            self.client.subscribe_with_options(text, qos, options, None)
        } else {
            self.client.subscribe(text, qos)
        };
        self.subscribes.push((filter, token));
    }

    /// Sends UNSUBSCRIBE.
    pub(super) fn unsubscribe(&self, filters: &[String]) {
        for filter in filters {
            drop(self.client.unsubscribe(filter.as_str()));
        }
    }

    /// Sends DISCONNECT.
    pub(super) fn disconnect(&mut self) {
        // The end of the connection tells that it has gone out.
        drop(self.client.disconnect(None));
        self.disconnecting = true;
    }

    /// The bridge sends DISCONNECT, not the client library: it knows what is still to be acknowledged.
    pub(super) fn disconnects_below(&mut self) {
        self.disconnecting = true;
    }

    /// Whether DISCONNECT has gone out to the broker, and all before it, or could not. Paho's
    /// own token would tell a second later.
    pub(super) fn disconnected(&self) -> bool {
        self.disconnecting && self.severed.is_some()
    }

    /// Closes the connection below, without ceremony. The client notices.
    pub(super) fn cut(&self) {
        self.handle.cancel();
    }

    /// The deliveries that have come to their end, and asks to be woken for more. What
    /// failed without a reason code is left out: its fate is unknown, and the end of the
    /// connection follows.
    pub(super) fn take_deliveries(&mut self) -> Vec<(u64, Delivery)> {
        let mut settled = Vec::new();
        let now = clock();
        let all = now >= self.swept_at + SWEEP;
        if all {
            self.swept_at = now;
        }
        loop {
            let mut done = |(name, token): &mut (u64, DeliveryToken)| {
                let Poll::Ready(result) = poll(token, Waker::noop()) else {
                    return false;
                };
                settled.extend(delivery(result).map(|end| (*name, end)));
                true
            };
            if all {
                self.deliveries.retain_mut(|delivery| !done(delivery));
            }
            while self.deliveries.front_mut().is_some_and(&mut done) {
                self.deliveries.pop_front();
            }
            if self.arm(&mut settled) {
                return settled;
            }
        }
    }

    /// As [`take_deliveries`](Self::take_deliveries), unless a wake is on its way anyhow.
    pub(super) fn take_deliveries_unless_armed(&mut self) -> Vec<(u64, Delivery)> {
        if self.armed {
            Vec::new()
        } else {
            self.take_deliveries()
        }
    }

    /// Asks to be woken when the delivery a stride ahead is done, or the last one if there are fewer:
    /// acknowledgements come in order, and one wake for many is cheap.
    /// `false` if that one is done already.
    fn arm(&mut self, settled: &mut Vec<(u64, Delivery)>) -> bool {
        let index = self.stride.min(self.deliveries.len().saturating_sub(1));
        let Some((seq, token)) = self.deliveries.get_mut(index) else {
            self.armed = false;
            return true;
        };
        let Poll::Ready(result) = poll(token, &self.waker) else {
            self.armed = true;
            return true;
        };
        settled.extend(delivery(result).map(|end| (*seq, end)));
        self.deliveries.remove(index);
        false
    }

    /// The SUBSCRIBEs that were answered: the granted QoS or the refusal's reason.
    pub(super) fn take_subscribed(&mut self) -> Vec<(usize, Result<u8, Refusal>)> {
        let mut answered = Vec::new();
        let waker = self.waker.clone();
        self.subscribes.retain_mut(|(filter, token)| {
            let Poll::Ready(result) = poll(token, &waker) else {
                return true;
            };
            let refused = || self.handle.take_refused_subscription();
            answered.extend(subscription(result, refused).map(|answer| (*filter, answer)));
            false
        });
        answered
    }
}

fn poll<F: Future + Unpin>(token: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(token).poll(&mut Context::from_waker(waker))
}
