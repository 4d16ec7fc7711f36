//! A broker with the manners of AWS IoT Core where Mosquitto has better ones: it hangs up
//! without an answer, discards what comes too fast, and takes MQTT on its port 443 only from who
//! asks for it by name (ALPN).
//!
//! Packets are read and written by a codec crate. It delivers to no one, but for the answers of fleet
//! provisioning: the tests look at its record.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use mqtt_protocol_core::mqtt::{
    Connection, Version,
    common::Cursor,
    connection::{Event, role},
    packet::{GenericPacketTrait, Packet, Qos, v3_1_1, v5_0},
    result_code::{
        ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, PubackReasonCode,
        SubackReasonCode, SubackReturnCode,
    },
};
use openssl::{
    hash::MessageDigest,
    ssl::{AlpnError, SslAcceptor, SslStream},
};

use super::{
    certs::certs,
    fleet::{Fleet, Holder},
    server::{self, Server},
};

const MAX_PAYLOAD: usize = 131_072;
const MAX_PER_SECOND: usize = 100;
const ALPN: &[u8] = b"x-amzn-mqtt-ca";

/// Whether a name is allowed.
type Rule = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// What a certificate may do, and where the broker listens.
pub(crate) struct Builder {
    connect: Rule,
    publish: Rule,
    subscribe: Rule,
    needs_alpn: bool,
    port: Option<u16>,
    fleet: Option<Arc<Fleet>>,
}

/// A message that came, whatever became of it.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) payload: Vec<u8>,
    /// It came too fast.
    pub(crate) discarded: bool,
}

pub(crate) struct AwsLike {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    changed: Condvar,
    connects: Mutex<Vec<Instant>>,
    /// Who is connected, with the means to end it.
    clients: Mutex<HashMap<String, Arc<AtomicBool>>>,
}

impl AwsLike {
    /// Everything is allowed until a line of the policy says otherwise.
    pub(crate) fn builder() -> Builder {
        Builder {
            connect: Box::new(|_| true),
            publish: Box::new(|_| true),
            subscribe: Box::new(|_| true),
            needs_alpn: false,
            port: None,
            fleet: None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().unwrap().clone()
    }

    /// When each CONNECT came.
    pub(crate) fn connects(&self) -> Vec<Instant> {
        self.shared.connects.lock().unwrap().clone()
    }

    /// Waits for this many arrivals.
    pub(crate) fn wait_arrivals(&self, count: usize, within: Duration) -> bool {
        let arrivals = self.shared.arrivals.lock().unwrap();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(arrivals, within, |arrivals| arrivals.len() < count);
        !waited.unwrap().1.timed_out()
    }
}

impl Builder {
    pub(crate) fn allow_client_ids(
        mut self,
        rule: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.connect = Box::new(rule);
        self
    }

    pub(crate) fn allow_publish(
        mut self,
        rule: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.publish = Box::new(rule);
        self
    }

    pub(crate) fn allow_subscribe(
        mut self,
        rule: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.subscribe = Box::new(rule);
        self
    }

    /// As on its port 443.
    pub(crate) fn needs_alpn(mut self) -> Self {
        self.needs_alpn = true;
        self
    }

    /// Certificates that this has not made may only ask it for one; the others only what their things may.
    pub(crate) fn fleet(mut self, fleet: Arc<Fleet>) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// On this port; without it on a free one.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub(crate) fn start(self) -> AwsLike {
        let shared = Arc::new(Shared::default());
        let known = Arc::clone(&shared);
        let mut tls = server::acceptor(&certs().server);
        if self.needs_alpn {
            tls.set_alpn_select_callback(|_, offered| {
                let mut rest = offered;
                while let Some((length, names)) = rest.split_first() {
                    let (name, others) = names.split_at(usize::from(*length));
                    if name == ALPN {
                        return Ok(name);
                    }
                    rest = others;
                }
                Err(AlpnError::ALERT_FATAL)
            });
        }
        let tls: SslAcceptor = tls.build();
        let port = self.port.unwrap_or(0);
        let needs_alpn = self.needs_alpn;
        let server = Server::listen(port, move |stream: TcpStream| {
            let Ok(stream) = tls.accept(stream) else {
                return;
            };
            // Who asks for nothing is taken for a browser.
            if needs_alpn && stream.ssl().selected_alpn_protocol() != Some(ALPN) {
                return;
            }
            let mut session = Session::new(&self, &known, stream);
            // An error is the end of the connection.
            let _ = session.serve();
            let _ = session.stream.shutdown();
        });
        AwsLike { server, shared }
    }
}

struct Session<'a> {
    rules: &'a Builder,
    shared: &'a Shared,
    stream: SslStream<TcpStream>,
    connection: Connection<role::Server>,
    /// Somebody else has come with the same identifier.
    taken_over: Arc<AtomicBool>,
    recent: VecDeque<Instant>,
    /// The certificate's identifier, which is its fingerprint.
    certificate: String,
    /// The filters that were granted.
    filters: Vec<String>,
}

/// The end of a session, in whatever way.
type Ends = io::Result<()>;

fn over() -> Ends {
    Err(io::ErrorKind::ConnectionAborted.into())
}

impl<'a> Session<'a> {
    fn new(rules: &'a Builder, shared: &'a Shared, stream: SslStream<TcpStream>) -> Self {
        let mut connection = Connection::new(Version::Undetermined);
        connection.set_auto_ping_response(true);
        let certificate = stream.ssl().peer_certificate();
        let digest = certificate.map(|cert| cert.digest(MessageDigest::sha256()).unwrap());
        Self {
            certificate: digest.map_or_else(String::new, |digest| HEXLOWER.encode(&digest)),
            filters: Vec::new(),
            rules,
            shared,
            stream,
            connection,
            taken_over: Arc::default(),
            recent: VecDeque::new(),
        }
    }

    fn serve(&mut self) -> Ends {
        let timeout = Some(Duration::from_millis(10));
        self.stream.get_ref().set_read_timeout(timeout)?;
        let mut buffer = vec![0; 32 * 1024];
        loop {
            if self.taken_over.load(Ordering::SeqCst) {
                return self.disconnect(DisconnectReasonCode::SessionTakenOver);
            }
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e),
            };
            let mut cursor = Cursor::new(&buffer[..count]);
            while usize::try_from(cursor.position()).unwrap() < count {
                for event in self.connection.recv(&mut cursor) {
                    match event {
                        Event::NotifyPacketReceived(packet) => self.receive(packet)?,
                        Event::RequestSendPacket { packet, .. } => self.write(&packet)?,
                        Event::NotifyError(_) | Event::RequestClose => return over(),
                        _ => {}
                    }
                }
            }
        }
    }

    fn receive(&mut self, packet: Packet) -> Ends {
        match packet {
            Packet::V3_1_1Connect(connect) => self.connect(connect.client_id(), false),
            Packet::V5_0Connect(connect) => self.connect(connect.client_id(), true),
            Packet::V3_1_1Publish(p) => {
                let payload = p.payload().as_slice().to_vec();
                self.publish(p.topic_name(), payload, p.packet_id(), false)
            }
            Packet::V5_0Publish(p) => {
                let payload = p.payload().as_slice().to_vec();
                self.publish(p.topic_name(), payload, p.packet_id(), true)
            }
            Packet::V3_1_1Subscribe(subscribe) => {
                let filters = subscribe.entries().iter();
                self.remember(filters.map(|entry| entry.topic_filter().to_owned()));
                let codes = subscribe.entries().iter().map(|entry| {
                    if self.may_subscribe(entry.topic_filter()) {
                        SubackReturnCode::SuccessMaximumQos1
                    } else {
                        SubackReturnCode::Failure
                    }
                });
                let suback = v3_1_1::Suback::builder()
                    .packet_id(subscribe.packet_id())
                    .return_codes(codes.collect());
                self.send(suback.build().unwrap().into())
            }
            Packet::V5_0Subscribe(subscribe) => {
                let filters = subscribe.entries().iter();
                self.remember(filters.map(|entry| entry.topic_filter().to_owned()));
                let codes = subscribe.entries().iter().map(|entry| {
                    if self.may_subscribe(entry.topic_filter()) {
                        SubackReasonCode::GrantedQos1
                    } else {
                        SubackReasonCode::NotAuthorized
                    }
                });
                let suback = v5_0::Suback::builder()
                    .packet_id(subscribe.packet_id())
                    .reason_codes(codes.collect());
                self.send(suback.build().unwrap().into())
            }
            Packet::V3_1_1Disconnect(_) | Packet::V5_0Disconnect(_) => over(),
            _ => Ok(()),
        }
    }

    fn holder(&self) -> Option<(&Fleet, Holder)> {
        let fleet = self.rules.fleet.as_deref()?;
        Some((fleet, fleet.holder(&self.certificate)))
    }

    fn may_connect(&self, client_id: &str) -> bool {
        let by_certificate = match self.holder() {
            None => true,
            Some((_, Holder::Claim)) => client_id.starts_with("claim-"),
            Some((_, Holder::Pending)) => false,
            Some((_, Holder::Thing(thing))) => client_id == thing,
        };
        by_certificate && (self.rules.connect)(client_id)
    }

    fn may_publish(&self, topic: &str) -> bool {
        let by_certificate = match self.holder() {
            Some((fleet, Holder::Claim)) => fleet.is_request(topic),
            _ => true,
        };
        by_certificate && (self.rules.publish)(topic)
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        let by_certificate = match self.holder() {
            Some((fleet, Holder::Claim)) => fleet.is_answer(filter),
            _ => true,
        };
        by_certificate && (self.rules.subscribe)(filter)
    }

    fn remember(&mut self, filters: impl Iterator<Item = String>) {
        for filter in filters {
            if self.may_subscribe(&filter) {
                self.filters.push(filter);
            }
        }
    }

    /// Of fleet provisioning, on this connection only.
    fn answer(&mut self, topic: &str, payload: &[u8], v5: bool) -> Ends {
        let Some(fleet) = self.rules.fleet.as_deref().filter(|f| f.is_request(topic)) else {
            return Ok(());
        };
        let answer = fleet.answer(topic, payload);
        if !self.filters.contains(&answer.topic) {
            return Ok(());
        }
        let id = self.connection.acquire_packet_id().unwrap();
        if v5 {
            let publish = v5_0::Publish::builder().topic_name(answer.topic).unwrap();
            let publish = publish.qos(Qos::AtLeastOnce).packet_id(id);
            self.send(publish.payload(answer.payload).build().unwrap().into())
        } else {
            let publish = v3_1_1::Publish::builder().topic_name(answer.topic).unwrap();
            let publish = publish.qos(Qos::AtLeastOnce).packet_id(id);
            self.send(publish.payload(answer.payload).build().unwrap().into())
        }
    }

    fn connect(&mut self, client_id: &str, v5: bool) -> Ends {
        self.shared.connects.lock().unwrap().push(Instant::now());
        if !self.may_connect(client_id) {
            if v5 {
                let refusal = v5_0::Connack::builder()
                    .session_present(false)
                    .reason_code(ConnectReasonCode::NotAuthorized);
                self.send(refusal.build().unwrap().into())?;
            }
            return over();
        }
        let own = Arc::clone(&self.taken_over);
        let mut clients = self.shared.clients.lock().unwrap();
        if let Some(older) = clients.insert(client_id.to_owned(), own) {
            older.store(true, Ordering::SeqCst);
        }
        drop(clients);
        if v5 {
            let connack = v5_0::Connack::builder()
                .session_present(false)
                .reason_code(ConnectReasonCode::Success);
            self.send(connack.build().unwrap().into())
        } else {
            let connack = v3_1_1::Connack::builder()
                .session_present(false)
                .return_code(ConnectReturnCode::Accepted);
            self.send(connack.build().unwrap().into())
        }
    }

    fn publish(&mut self, topic: &str, payload: Vec<u8>, id: Option<u16>, v5: bool) -> Ends {
        if payload.len() > MAX_PAYLOAD {
            return over();
        }
        if !self.may_publish(topic) {
            if let (true, Some(id)) = (v5, id) {
                let puback = v5_0::Puback::builder()
                    .packet_id(id)
                    .reason_code(PubackReasonCode::NotAuthorized);
                self.send(puback.build().unwrap().into())?;
            }
            return self.disconnect(DisconnectReasonCode::NotAuthorized);
        }
        let now = Instant::now();
        let second = Duration::from_secs(1);
        self.recent.retain(|at| now.duration_since(*at) < second);
        self.recent.push_back(now);
        let discarded = self.recent.len() > MAX_PER_SECOND;
        let payload_of_request = payload.clone();
        self.shared.arrivals.lock().unwrap().push(Arrival {
            at: now,
            payload,
            discarded,
        });
        self.shared.changed.notify_all();
        // An answer may overtake the acknowledgement.
        self.answer(topic, &payload_of_request, v5)?;
        match id {
            Some(id) if !discarded && v5 => {
                let puback = v5_0::Puback::builder().packet_id(id);
                self.send(puback.build().unwrap().into())
            }
            Some(id) if !discarded => {
                let puback = v3_1_1::Puback::builder().packet_id(id);
                self.send(puback.build().unwrap().into())
            }
            _ => Ok(()),
        }
    }

    /// Ends the connection, with a word only if that is possible.
    fn disconnect(&mut self, reason: DisconnectReasonCode) -> Ends {
        if self.connection.get_protocol_version() == Version::V5_0 {
            let disconnect = v5_0::Disconnect::builder().reason_code(reason);
            self.send(disconnect.build().unwrap().into())?;
        }
        over()
    }

    fn send(&mut self, packet: Packet) -> Ends {
        for event in self.connection.send(packet) {
            if let Event::RequestSendPacket { packet, .. } = event {
                self.write(&packet)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, packet: &Packet) -> Ends {
        self.stream.write_all(&packet.to_continuous_buffer())
    }
}
