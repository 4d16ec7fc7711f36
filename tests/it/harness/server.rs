//! Servers that do what no real broker would: hang up, stay silent, answer nonsense.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslFiletype, SslMethod, SslVerifyMode};

use super::{
    certs::{Pair, certs},
    packet::read_packet,
};

/// A connection, with or without TLS.
pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A server on a free loopback port that treats each connection the same way; all of
/// them are closed when it is dropped.
pub(crate) struct Server {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    accepted: Mutex<Vec<Instant>>,
    changed: Condvar,
    /// A handle on each open connection, by its number.
    streams: Mutex<HashMap<usize, TcpStream>>,
    closing: AtomicBool,
}

/// Hangs up at once.
pub(crate) fn hang_up(_: &mut dyn Stream) {}

/// Never says a word.
pub(crate) fn stay_silent(stream: &mut dyn Stream) {
    // The end of a connection is no error here, however it comes.
    let _ = io::copy(stream, &mut io::sink());
}

/// Reads the CONNECT, answers with `bytes` and hangs up.
pub(crate) fn answer(bytes: &'static [u8]) -> impl Fn(&mut dyn Stream) + Send + Sync {
    move |stream| {
        let _ = read_packet(stream).and_then(|_| stream.write_all(bytes));
    }
}

/// Reads the CONNECT, answers with `bytes` and says no more.
pub(crate) fn answer_then_silence(bytes: &'static [u8]) -> impl Fn(&mut dyn Stream) + Send + Sync {
    move |stream| {
        answer(bytes)(stream);
        stay_silent(stream);
    }
}

impl Server {
    pub(crate) fn plain(treat: impl Fn(&mut dyn Stream) + Send + Sync + 'static) -> Self {
        Self::start(move |mut stream| treat(&mut stream))
    }

    /// Mutual TLS with the usual certificates; only a completed handshake is treated.
    pub(crate) fn tls(treat: impl Fn(&mut dyn Stream) + Send + Sync + 'static) -> Self {
        Self::tls_by(acceptor(&certs().server), treat)
    }

    /// As [`tls`](Self::tls), with a server side of the caller's making.
    pub(crate) fn tls_by(
        tls: SslAcceptorBuilder,
        treat: impl Fn(&mut dyn Stream) + Send + Sync + 'static,
    ) -> Self {
        let tls = tls.build();
        Self::tls_of_connection(move |_| Some(tls.clone()), treat)
    }

    /// As [`tls_by`](Self::tls_by), with the server side of each connection, counted from 0; without one there is no
    /// answer.
    pub(crate) fn tls_of_connection(
        side: impl Fn(usize) -> Option<SslAcceptor> + Send + Sync + 'static,
        treat: impl Fn(&mut dyn Stream) + Send + Sync + 'static,
    ) -> Self {
        let connections = AtomicUsize::new(0);
        Self::start(move |mut stream| {
            let Some(tls) = side(connections.fetch_add(1, Ordering::SeqCst)) else {
                return stay_silent(&mut stream);
            };
            if let Ok(mut stream) = tls.accept(stream) {
                treat(&mut stream);
                // The peer may be gone before our close_notify.
                let _ = stream.shutdown();
            }
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// When each connection so far was accepted.
    pub(crate) fn accepted(&self) -> Vec<Instant> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// When each of the first `count` connections was accepted.
    pub(crate) fn wait_accepted(&self, count: usize, within: Duration) -> Vec<Instant> {
        let accepted = self.shared.accepted.lock().unwrap();
        let (accepted, _) = self
            .shared
            .changed
            .wait_timeout_while(accepted, within, |accepted| accepted.len() < count)
            .unwrap();
        let found = accepted.len();
        assert!(
            found >= count,
            "{found} of {count} connections in {within:?}"
        );
        accepted[..count].to_vec()
    }

    fn start(treat: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::listen(0, treat)
    }

    /// On a port, or on a free one if that is 0; whoever treats a connection has it whole.
    pub(crate) fn listen(port: u16, treat: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let treat = Arc::new(treat);
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.closing.load(Ordering::SeqCst) {
                        break;
                    }
                    let number = shared.admit(&stream);
                    let (shared, treat) = (Arc::clone(&shared), Arc::clone(&treat));
                    thread::spawn(move || {
                        treat(stream);
                        shared.streams.lock().unwrap().remove(&number);
                    });
                }
            }
        });
        Self {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }
}

impl Shared {
    fn admit(&self, stream: &TcpStream) -> usize {
        let now = Instant::now();
        // An answer must not wait for a second one to fill a segment.
        let _ = stream.set_nodelay(true);
        let mut accepted = self.accepted.lock().unwrap();
        let number = accepted.len();
        let mut streams = self.streams.lock().unwrap();
        streams.insert(number, stream.try_clone().unwrap());
        accepted.push(now);
        self.changed.notify_all();
        number
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // A last connection wakes the acceptor up.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// The server side of mutual TLS with this certificate, trusting the usual CA.
pub(crate) fn acceptor(server: &Pair) -> SslAcceptorBuilder {
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    tls.set_certificate_chain_file(&server.cert).unwrap();
    tls.set_private_key_file(&server.key, SslFiletype::PEM)
        .unwrap();
    tls.set_ca_file(&certs().ca).unwrap();
    tls.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    tls
}
