//! One Paho client, from its creation to its end: one attempt, at most one connection.
//!
//! A session is never used again. Everything Paho says on its own threads is turned into a
//! command for the worker; nothing is decided or waited for there.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use openssl::error::ErrorStack;
use paho_mqtt::{
    AsyncClient, ConnectToken, DeliveryToken, Error, MessageBuilder, Properties, PropertyCode,
    ServerResponse, SubscribeToken, Token,
};

use super::tls::Loaded;
use super::worker::Command;
use super::{Config, Delivery, OnMessage, Refusal, options, reason};
use crate::common::event_loop::clock;
use crate::common::fault::Fault;
use crate::common::message::{Message, Qos, Received, SeqProperty};

/// Paho's return code for a publish without a connection (`MQTTASYNC_DISCONNECTED`).
const DISCONNECTED: i32 = -3;

/// How Paho and OpenSSL left the thread when a connect failed: the only trace of the cause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hint {
    /// The TLS handshake had not been completed.
    pub(super) in_handshake: bool,
    /// The peer had closed or reset the connection before we did.
    pub(super) peer_closed: bool,
}

/// What the worker waits for on a session.
enum Connect {
    Pending(ConnectToken),
    Reported,
}

/// One Paho client.
pub(super) struct Session {
    pub(super) generation: u64,
    client: AsyncClient,
    connect: Connect,
    hint: Arc<Mutex<Hint>>,
    waker: Waker,
    deliveries: VecDeque<(u64, DeliveryToken)>,
    armed: bool,
    subscribes: Vec<(usize, SubscribeToken)>,
    disconnect: Option<Token>,
    sequence: bool,
    v5: bool,
    half_window: usize,
    /// Why the broker said it would end the connection.
    pub(super) farewell: Option<Fault>,
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
    /// Creates a client and starts its one connect.
    pub(super) fn start(
        generation: u64,
        config: &Config,
        loaded: &Loaded,
        v5: bool,
        on_message: Option<&OnMessage>,
        commands: &Sender<Command>,
    ) -> Result<Self, Error> {
        let client = AsyncClient::new(options::create(config))?;
        watch(&client, generation, &config.endpoint.to_string(), commands);
        if let Some(on_message) = on_message {
            deliver_to(&client, on_message);
        }
        let options = options::connect(config, loaded, v5)?;
        let hint = Arc::new(Mutex::new(Hint::default()));
        let noted = Arc::clone(&hint);
        let connect = client.connect_with_callbacks(
            options,
            |_, _| {},
            move |_, _, _| {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Hint::take();
            },
        );
        let waker = Waker::from(Arc::new(Notify {
            generation,
            commands: Mutex::new(commands.clone()),
        }));
        Ok(Self {
            generation,
            client,
            connect: Connect::Pending(connect),
            hint,
            waker,
            deliveries: VecDeque::new(),
            armed: false,
            subscribes: Vec::new(),
            disconnect: None,
            sequence: config.sequence,
            v5,
            half_window: config.max_in_flight / 2,
            farewell: None,
        })
    }

    /// What has become of the connect; `None` while it is under way and after it has been
    /// reported.
    pub(super) fn connect_result(&mut self) -> Option<Result<ServerResponse, (Error, Hint)>> {
        let Connect::Pending(token) = &mut self.connect else {
            return None;
        };
        let Poll::Ready(result) = poll(token, &self.waker) else {
            return None;
        };
        self.connect = Connect::Reported;
        if let Ok(response) = &result
            && let Some(most) = response.properties().get_int(PropertyCode::ReceiveMaximum)
        {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            self.half_window = self.half_window.min(most / 2);
        }
        let hint = *self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        Some(result.map_err(|error| (error, hint)))
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
        let mut builder = MessageBuilder::new()
            .topic(&*draft.topic)
            .payload(draft.payload.as_slice())
            .qos(i32::from(draft.qos.level()))
            .retained(draft.retain);
        if self.v5 && (self.sequence || message.expires_at.is_some()) {
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
            let seq = SeqProperty::of(message).to_string();
            let _ =
                properties.push_string_pair(PropertyCode::UserProperty, SeqProperty::NAME, &seq);
        }
        if let Some(at) = message.expires_at {
            let left = at
                .saturating_duration_since(clock())
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

    /// Sends one SUBSCRIBE.
    pub(super) fn subscribe(&mut self, filter: usize, text: String, qos: Qos) {
        let token = self.client.subscribe(text, i32::from(qos.level()));
        self.subscribes.push((filter, token));
    }

    /// Sends DISCONNECT.
    pub(super) fn disconnect(&mut self) {
        self.disconnect = Some(self.client.disconnect(None));
    }

    /// Whether DISCONNECT has gone out, or could not.
    pub(super) fn disconnected(&mut self) -> bool {
        match &mut self.disconnect {
            Some(token) => poll(token, &self.waker).is_ready(),
            None => false,
        }
    }

    /// The deliveries that have come to their end, and asks to be woken for more. What
    /// failed without a reason code is left out: its fate is unknown, and the end of the
    /// connection follows.
    pub(super) fn take_deliveries(&mut self) -> Vec<(u64, Delivery)> {
        let mut settled = Vec::new();
        loop {
            self.deliveries.retain_mut(|(seq, token)| {
                let Poll::Ready(result) = poll(token, Waker::noop()) else {
                    return true;
                };
                settled.extend(delivery(result).map(|end| (*seq, end)));
                false
            });
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

    /// Asks to be woken when the delivery half a window ahead is done, or the last one if
    /// there are fewer: acknowledgements come in order, and one wake for many is cheap.
    /// `false` if that one is done already.
    fn arm(&mut self, settled: &mut Vec<(u64, Delivery)>) -> bool {
        let index = self
            .half_window
            .min(self.deliveries.len().saturating_sub(1));
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
            answered.extend(subscription(result).map(|answer| (*filter, answer)));
            false
        });
        answered
    }
}

impl Hint {
    /// Reads what the failed handshake left on this thread: OpenSSL's error queue, and the
    /// `errno` of Paho's `shutdown(2)`. A hint only: it decides when to probe, not what to
    /// report.
    fn take() -> Self {
        let peer_closed = matches!(
            io::Error::last_os_error().kind(),
            io::ErrorKind::NotConnected | io::ErrorKind::ConnectionReset
        );
        let in_handshake = ErrorStack::get()
            .errors()
            .iter()
            .any(|error| error.reason() == Some("shutdown while in init"));
        Self {
            in_handshake,
            peer_closed,
        }
    }
}

/// Reports the end of the connection, and why if the broker says.
fn watch(client: &AsyncClient, generation: u64, host: &str, commands: &Sender<Command>) {
    let lost = commands.clone();
    client.set_connection_lost_callback(move |_| send(&lost, Command::Lost { generation }));
    let (ended, host) = (commands.clone(), host.to_owned());
    client.set_disconnected_callback(move |_, properties, code| {
        let fault = reason::disconnected(&host, code, &properties);
        send(&ended, Command::Farewell { generation, fault });
    });
}

fn deliver_to(client: &AsyncClient, on_message: &OnMessage) {
    let on_message = Arc::clone(on_message);
    client.set_message_callback(move |_, message| {
        let Some(message) = message else { return };
        on_message(&Received {
            topic: message.topic(),
            payload: message.payload(),
            qos: match message.qos() {
                paho_mqtt::QoS::AtMostOnce => Qos::AtMostOnce,
                paho_mqtt::QoS::AtLeastOnce => Qos::AtLeastOnce,
                paho_mqtt::QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            retained: message.retained(),
            seq: message
                .properties()
                .find_user_property(SeqProperty::NAME)
                .and_then(|value| value.parse().ok()),
        });
    });
}

fn poll<F: Future + Unpin>(token: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(token).poll(&mut Context::from_waker(waker))
}

/// What a finished delivery means; none if nobody knows.
fn delivery(result: Result<(), Error>) -> Option<Delivery> {
    match result {
        Ok(()) => Some(Delivery::Done),
        Err(Error::ReasonCode(code, properties)) => {
            let refusal = reason::refusal(code, &properties);
            Some(if reason::is_transient(refusal.code) {
                Delivery::NotNow
            } else {
                Delivery::Refused(refusal)
            })
        }
        Err(_) => None,
    }
}

/// What an answered SUBSCRIBE means; none if the connection ended first.
fn subscription(result: Result<ServerResponse, Error>) -> Option<Result<u8, Refusal>> {
    match result {
        Ok(response) => {
            let granted = response
                .subscribe_response()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(0x80);
            Some(if granted <= 2 {
                Ok(granted)
            } else {
                Err(unexplained(granted))
            })
        }
        Err(Error::ReasonCode(code, properties)) => Some(Err(reason::refusal(code, &properties))),
        // MQTT 3.1.1 knows one failure code, 0x80, and Paho makes this of it.
        Err(Error::Failure) => Some(Err(unexplained(0x80))),
        Err(_) => None,
    }
}

/// A refusal without a reason.
fn unexplained(code: u8) -> Refusal {
    Refusal {
        code,
        reason: format!("no reason given (0x{code:02X})"),
    }
}
