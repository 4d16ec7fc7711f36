//! A slow line: a TCP proxy that passes on this many bytes a second in either direction, and takes no more from either
//! side than a slow line would.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, setsockopt,
    socket, sockopt,
};

use super::wait_until;

/// What the system is asked to hold for either side, in bytes: it takes about twice that.
const BUFFER: usize = 2_048;

/// Between two pieces.
const STEP: Duration = Duration::from_millis(20);

pub(crate) struct Throttle {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    /// Bytes that have passed to the target.
    passed: AtomicUsize,
    stalled: AtomicBool,
    closing: AtomicBool,
}

impl Throttle {
    pub(crate) fn start(target: u16, bytes_per_second: usize) -> Self {
        let listener = small_socket();
        setsockopt(&listener, sockopt::ReuseAddr, &true).unwrap();
        let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        bind(listener.as_raw_fd(), &any).unwrap();
        listen(&listener, Backlog::new(16).unwrap()).unwrap();
        let listener = TcpListener::from(listener);
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if shared.closing.load(Ordering::SeqCst) {
                        return;
                    }
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    carry(&client, target, bytes_per_second, &shared);
                }
            }
        });
        Self {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Nothing passes any more, and nothing is taken.
    pub(crate) fn stall(&self) {
        self.shared.stalled.store(true, Ordering::SeqCst);
    }

    /// Until this many bytes have passed to the target.
    pub(crate) fn wait_passed(&self, bytes: usize, within: Duration) {
        let passed = || self.shared.passed.load(Ordering::SeqCst) >= bytes;
        assert!(wait_until(within, passed), "fewer than {bytes} bytes");
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // A last connection wakes the acceptor up.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Its buffer has to be small before it listens or connects.
fn small_socket() -> std::os::fd::OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    setsockopt(&fd, sockopt::RcvBuf, &BUFFER).unwrap();
    fd
}

fn carry(client: &TcpStream, target: u16, bytes_per_second: usize, shared: &Arc<Shared>) {
    let server = small_socket();
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, target));
    if connect(server.as_raw_fd(), &address).is_err() {
        return;
    }
    let server = TcpStream::from(server);
    let pair = |a: &TcpStream, b: &TcpStream| (a.try_clone().unwrap(), b.try_clone().unwrap());
    for ((mut from, mut to), up) in [
        (pair(client, &server), true),
        (pair(&server, client), false),
    ] {
        let shared = Arc::clone(shared);
        let step = usize::try_from(STEP.as_millis()).unwrap();
        let mut piece = vec![0; (bytes_per_second * step / 1_000).max(1)];
        let _ = to.set_nodelay(true);
        thread::spawn(move || {
            while let Ok(count @ 1..) = from.read(&mut piece) {
                while shared.stalled.load(Ordering::SeqCst) {
                    if shared.closing.load(Ordering::SeqCst) {
                        return;
                    }
                    thread::park_timeout(STEP);
                }
                if to.write_all(&piece[..count]).is_err() {
                    break;
                }
                if up {
                    shared.passed.fetch_add(count, Ordering::SeqCst);
                }
                thread::park_timeout(STEP);
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
