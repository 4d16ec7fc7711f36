//! A broker that follows a script: it answers, withholds or refuses as a test says, and
//! keeps a record of what it was sent.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use openssl::ssl::SslAcceptor;
use tungstenite::{
    Message, WebSocket,
    handshake::server::{ErrorResponse, Request, Response},
    http::HeaderValue,
};

use super::{
    certs::certs,
    packet::{self, Connect, Publish, kind, read_packet},
    server::{self, Server, Stream},
};

/// What to do about a PUBLISH.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Ack,
    /// With MQTT 5, acknowledge with this reason code.
    Refuse(u8),
    Silence,
    /// Hang up without an answer.
    HangUp,
    /// With MQTT 5, a DISCONNECT with this reason code, then hang up.
    Disconnect(u8),
}

/// The script, before the curtain.
pub(crate) struct Script {
    connack_properties: Vec<u8>,
    refuse_version_5: Option<Vec<u8>>,
    ignore_version_5: bool,
    cut_connack: (Range<usize>, Vec<u8>),
    session_present: bool,
    connack_after: Duration,
    on_subscribe: Box<SubscribeCode>,
    messages: Vec<(String, String, Vec<u8>)>,
    on_publish: Box<dyn Fn(&Publish) -> Reply + Send + Sync>,
    closed_after_connack: usize,
    closed_after_subscribe: usize,
}

type SubscribeCode = dyn Fn(&str, u8) -> Option<u8> + Send + Sync;

/// What came in, in order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Connect(Connect),
    Publish(Publish),
    /// Each filter with the QoS asked for.
    Subscribe(Vec<(String, u8)>),
    /// With the packet identifier.
    Puback(u16),
    Ping(Instant),
    /// With its reason code; 0 also for MQTT 3.1.1.
    Disconnect(u8),
    /// The connection ended, in whatever way.
    End,
}

pub(crate) struct ScriptedBroker {
    server: Server,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
    connections: AtomicUsize,
}

impl ScriptedBroker {
    /// Without further lines the script is that of a decent broker: accept and
    /// acknowledge everything.
    pub(crate) fn script() -> Script {
        Script {
            connack_properties: Vec::new(),
            refuse_version_5: None,
            ignore_version_5: false,
            cut_connack: (0..0, Vec::new()),
            session_present: false,
            connack_after: Duration::ZERO,
            on_subscribe: Box::new(|_, qos| Some(qos)),
            messages: Vec::new(),
            on_publish: Box::new(|_| Reply::Ack),
            closed_after_connack: 0,
            closed_after_subscribe: 0,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.record.events.lock().unwrap().clone()
    }

    /// The protocol level of each CONNECT so far.
    pub(crate) fn levels(&self) -> Vec<u8> {
        let events = self.events();
        let connects = events.iter().filter_map(|event| match event {
            Event::Connect(connect) => Some(connect.level),
            _ => None,
        });
        connects.collect()
    }

    /// Every PUBLISH so far.
    pub(crate) fn publishes(&self) -> Vec<Publish> {
        publishes(&self.record.events.lock().unwrap())
    }

    /// When each PINGREQ came.
    pub(crate) fn ping_times(&self) -> Vec<Instant> {
        let events = self.events();
        let pings = events.iter().filter_map(|event| match event {
            Event::Ping(at) => Some(*at),
            _ => None,
        });
        pings.collect()
    }

    /// The events, once `enough` says so.
    pub(crate) fn wait(&self, within: Duration, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let events = self.record.events.lock().unwrap();
        let (events, timeout) = self
            .record
            .changed
            .wait_timeout_while(events, within, |events| !enough(events))
            .unwrap();
        assert!(!timeout.timed_out(), "in {within:?} only {events:#?}");
        events.clone()
    }

    /// The first `count` PUBLISH packets.
    pub(crate) fn wait_publishes(&self, count: usize, within: Duration) -> Vec<Publish> {
        let enough = |events: &[Event]| publish_count(events) >= count;
        let mut found = publishes(&self.wait(within, enough));
        found.truncate(count);
        found
    }
}

impl Script {
    /// Adds properties, as bytes, to a CONNACK of MQTT 5: `[0x21, 0, 10]` is a Receive
    /// Maximum of 10, `[0x27, 0, 0, 4, 0]` a Maximum Packet Size of 1024.
    pub(crate) fn connack_properties(mut self, properties: &[u8]) -> Self {
        self.connack_properties.extend(properties);
        self
    }

    pub(crate) fn on_publish(
        mut self,
        reply: impl Fn(&Publish) -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.on_publish = Box::new(reply);
        self
    }

    /// Answers a CONNECT of MQTT 5 with these bytes and hangs up, like a broker of old.
    pub(crate) fn refuse_version_5(mut self, connack: &[u8]) -> Self {
        self.refuse_version_5 = Some(connack.to_vec());
        self
    }

    /// Does not answer a CONNECT of MQTT 5.
    pub(crate) fn ignore_version_5(mut self) -> Self {
        self.ignore_version_5 = true;
        self
    }

    /// Answers the first `connections` with these bytes, whatever they speak, and hangs up.
    pub(crate) fn cut_connack(self, connections: usize, bytes: &[u8]) -> Self {
        self.cut_connack_of(0..connections, bytes)
    }

    /// As [`cut_connack`](Self::cut_connack), of the connections with these numbers, from 0 on.
    pub(crate) fn cut_connack_of(mut self, connections: Range<usize>, bytes: &[u8]) -> Self {
        self.cut_connack = (connections, bytes.to_vec());
        self
    }

    /// Closes the first `connections` when SUBSCRIBE comes.
    pub(crate) fn close_after_subscribe(mut self, connections: usize) -> Self {
        self.closed_after_subscribe = connections;
        self
    }

    /// Closes the first `connections` after CONNACK: the first of them at once, the last 2 ms later.
    pub(crate) fn close_after_connack(mut self, connections: usize) -> Self {
        self.closed_after_connack = connections;
        self
    }

    /// Takes this long to answer a CONNECT.
    pub(crate) fn connack_after(mut self, delay: Duration) -> Self {
        self.connack_after = delay;
        self
    }

    /// Says that it has a session, whatever is asked for.
    pub(crate) fn session_present(mut self) -> Self {
        self.session_present = true;
        self
    }

    /// The code for each filter, given with the QoS asked for; none is no SUBACK at all.
    pub(crate) fn on_subscribe(
        mut self,
        code: impl Fn(&str, u8) -> Option<u8> + Send + Sync + 'static,
    ) -> Self {
        self.on_subscribe = Box::new(code);
        self
    }

    /// Never answers a SUBSCRIBE.
    pub(crate) fn ignore_subscribe(self) -> Self {
        self.on_subscribe(|_, _| None)
    }

    /// Publishes this at QoS 1 after each answer to a SUBSCRIBE for `filter`; may be
    /// repeated. The packet identifiers count from 1 in the order of these lines.
    pub(crate) fn after_subscribe(mut self, filter: &str, topic: &str, payload: &[u8]) -> Self {
        let message = (filter.to_owned(), topic.to_owned(), payload.to_vec());
        self.messages.push(message);
        self
    }

    pub(crate) fn plain(self) -> ScriptedBroker {
        self.start(|play| Server::plain(play))
    }

    pub(crate) fn tls(self) -> ScriptedBroker {
        self.start(|play| Server::tls(play))
    }

    /// With TLS, and TLS sessions are resumed: [`tls`](Self::tls) ends the handshake of whoever tries.
    pub(crate) fn resuming_tls(self) -> ScriptedBroker {
        let mut tls = server::acceptor(&certs().server);
        tls.set_session_id_context(b"test").unwrap();
        self.start(|play| Server::tls_by(tls, play))
    }

    /// With the TLS of each connection, counted from 0; without one there is no answer.
    pub(crate) fn tls_of_connection(
        self,
        side: impl Fn(usize) -> Option<SslAcceptor> + Send + Sync + 'static,
    ) -> ScriptedBroker {
        self.start(|play| Server::tls_of_connection(side, play))
    }

    /// With `WebSocket` and resumed TLS sessions; the connections with these numbers, from 0 on, end before the upgrade.
    pub(crate) fn resuming_wss(self, refused: Range<usize>) -> ScriptedBroker {
        let mut tls = server::acceptor(&certs().server);
        tls.set_session_id_context(b"test").unwrap();
        let connections = AtomicUsize::new(0);
        self.start(|play| {
            Server::tls_by(tls, move |stream| {
                if refused.contains(&connections.fetch_add(1, Ordering::SeqCst)) {
                    return;
                }
                if let Ok(socket) = tungstenite::accept_hdr(stream, choose_mqtt) {
                    play(&mut WebSocketBytes {
                        socket,
                        unread: Vec::new(),
                    });
                }
            })
        })
    }

    fn start(
        self,
        serve: impl FnOnce(Box<dyn Fn(&mut dyn Stream) + Send + Sync>) -> Server,
    ) -> ScriptedBroker {
        let record = Arc::new(Record::default());
        let played = Arc::clone(&record);
        let server = serve(Box::new(move |stream| {
            let number = played.connections.fetch_add(1, Ordering::SeqCst);
            // An error is the end of the connection, which the record shows.
            let _ = self.play(stream, number, &played);
            played.add(Event::End);
        }));
        ScriptedBroker { server, record }
    }

    fn play(&self, stream: &mut dyn Stream, number: usize, record: &Record) -> io::Result<()> {
        let mut level = 4;
        loop {
            let packet = read_packet(stream)?;
            match packet.kind() {
                kind::CONNECT => {
                    let connect = packet.connect();
                    level = connect.level;
                    record.add(Event::Connect(connect));
                    if let (5, Some(refusal)) = (level, &self.refuse_version_5) {
                        return stream.write_all(refusal);
                    }
                    if self.cut_connack.0.contains(&number) {
                        return stream.write_all(&self.cut_connack.1);
                    }
                    if level == 5 && self.ignore_version_5 {
                        continue;
                    }
                    stream.write_all(&self.connack(level))?;
                    if number < self.closed_after_connack {
                        let later = number * 2_000 / self.closed_after_connack;
                        thread::park_timeout(Duration::from_micros(later as u64));
                        return Ok(());
                    }
                }
                kind::PUBLISH => {
                    let publish = packet.publish(number, level);
                    let reply = (self.on_publish)(&publish);
                    let (qos, id) = (publish.qos, publish.packet_id);
                    record.add(Event::Publish(publish));
                    match reply {
                        Reply::Ack => acknowledge(stream, qos, id, None)?,
                        Reply::Refuse(code) => acknowledge(stream, qos, id, Some(code))?,
                        Reply::Silence => (),
                        Reply::HangUp => return Ok(()),
                        Reply::Disconnect(code) => return stream.write_all(&[0xe0, 2, code, 0]),
                    }
                }
                kind::PUBREL => {
                    let [high, low] = packet.body().number().to_be_bytes();
                    stream.write_all(&[0x70, 2, high, low])?;
                }
                kind::SUBSCRIBE => {
                    let (id, filters) = packet.subscribe(level);
                    let codes = filters
                        .iter()
                        .map(|(text, qos)| (self.on_subscribe)(text, *qos));
                    let codes: Option<Vec<u8>> = codes.collect();
                    record.add(Event::Subscribe(filters.clone()));
                    if number < self.closed_after_subscribe {
                        return Ok(());
                    }
                    if let Some(codes) = codes {
                        stream.write_all(&suback(level, id, &codes))?;
                        stream.write_all(&self.publishes(level, &filters))?;
                    }
                }
                kind::PUBACK => record.add(Event::Puback(packet.body().number())),
                kind::UNSUBSCRIBE => {
                    let [high, low] = packet.body().number().to_be_bytes();
                    match level {
                        5 => stream.write_all(&[0xb0, 4, high, low, 0, 0])?,
                        _ => stream.write_all(&[0xb0, 2, high, low])?,
                    }
                }
                kind::PINGREQ => {
                    record.add(Event::Ping(Instant::now()));
                    stream.write_all(&[0xd0, 0])?;
                }
                kind::DISCONNECT => {
                    let mut body = packet.body();
                    let code = if body.is_empty() { 0 } else { body.byte() };
                    record.add(Event::Disconnect(code));
                    return Ok(());
                }
                _ => (),
            }
        }
    }

    fn connack(&self, level: u8) -> Vec<u8> {
        std::thread::park_timeout(self.connack_after);
        if level < 5 {
            return vec![0x20, 2, u8::from(self.session_present), 0];
        }
        let length = u8::try_from(self.connack_properties.len()).unwrap();
        let mut connack = vec![0x20, 3 + length, u8::from(self.session_present), 0, length];
        connack.extend(&self.connack_properties);
        connack
    }

    /// What follows an answer to a SUBSCRIBE for these filters.
    fn publishes(&self, level: u8, filters: &[(String, u8)]) -> Vec<u8> {
        let numbered = (1..).zip(&self.messages);
        let due = numbered.filter(|(_, (after, ..))| filters.iter().any(|(f, _)| f == after));
        due.flat_map(|(id, (_, topic, payload))| packet::publish(level, id, topic, payload))
            .collect()
    }
}

/// The bytes in the messages of a `WebSocket`.
struct WebSocketBytes<'a> {
    socket: WebSocket<&'a mut dyn Stream>,
    unread: Vec<u8>,
}

#[allow(
    clippy::result_large_err,
    clippy::unnecessary_wraps,
    reason = "the type of the callback"
)]
fn choose_mqtt(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let protocol = HeaderValue::from_static("mqtt");
    response
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", protocol);
    Ok(response)
}

impl io::Read for WebSocketBytes<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.socket.read().map_err(io::Error::other)? {
                Message::Binary(bytes) => self.unread.extend(bytes),
                Message::Close(_) => return Ok(0),
                _ => {}
            }
        }
        let count = into.len().min(self.unread.len());
        into[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }
}

impl io::Write for WebSocketBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let message = Message::binary(bytes.to_vec());
        self.socket.send(message).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}

fn suback(level: u8, id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    body.extend(codes);
    let mut suback = vec![0x90, u8::try_from(body.len()).unwrap()];
    suback.extend(body);
    suback
}

impl Record {
    fn add(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.changed.notify_all();
    }
}

/// PUBACK at QoS 1, PUBREC at QoS 2.
fn acknowledge(stream: &mut dyn Stream, qos: u8, id: u16, reason: Option<u8>) -> io::Result<()> {
    let first = match qos {
        0 => return Ok(()),
        1 => 0x40,
        _ => 0x50,
    };
    let [high, low] = id.to_be_bytes();
    match reason {
        None => stream.write_all(&[first, 2, high, low]),
        Some(code) => stream.write_all(&[first, 4, high, low, code, 0]),
    }
}

fn publishes(events: &[Event]) -> Vec<Publish> {
    let publishes = events.iter().filter_map(|event| match event {
        Event::Publish(publish) => Some(publish.clone()),
        _ => None,
    });
    publishes.collect()
}

fn publish_count(events: &[Event]) -> usize {
    let is_publish = |event: &&Event| matches!(event, Event::Publish(_));
    events.iter().filter(is_publish).count()
}
