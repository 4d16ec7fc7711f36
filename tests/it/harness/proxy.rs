//! A TCP proxy that makes loopback behave like a network: it delays every byte without
//! limiting how many pass, and can fall silent or hang up. It stands on its own, so that
//! `examples/delay-proxy.rs` can offer it to the scripts.

// The clock is what it is about. And the example uses only a part.
#![allow(clippy::disallowed_methods, dead_code)]

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A proxy from a loopback port to another; all its connections end when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    control: Arc<Control>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stalled: bool,
    closing: bool,
    /// Rises with each cut; what was accepted under an earlier number has ended.
    generation: u64,
    streams: Vec<TcpStream>,
}

impl Proxy {
    /// Listens on a free port. Each byte arrives `one_way` later than it was sent, in
    /// either direction; only the TCP handshake itself costs nothing.
    pub(crate) fn start(target: u16, one_way: Duration) -> Self {
        Self::listen(0, target, one_way).expect("a free port")
    }

    /// Listens on `port`, or on a free one if that is 0.
    pub(crate) fn listen(port: u16, target: u16, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        let control = Arc::new(Control::default());
        let acceptor = thread::spawn({
            let control = Arc::clone(&control);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if control.state.lock().unwrap().closing {
                        break;
                    }
                    // Without a target the client sees its connection closed.
                    let _ = connect(client, target, one_way, &control);
                }
            }
        });
        Ok(Self {
            port,
            control,
            acceptor: Some(acceptor),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Falls silent: connections stay and new ones are accepted, but nothing passes.
    pub(crate) fn stall(&self) {
        self.control.update(|state| state.stalled = true);
    }

    /// Delivers what was held back since [`stall`](Self::stall), and passes on again.
    pub(crate) fn resume(&self) {
        self.control.update(|state| state.stalled = false);
    }

    /// Closes every connection there is, whatever is under way; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.control.update(|state| {
            state.generation += 1;
            for stream in state.streams.drain(..) {
                // It may have ended without a signal.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.update(|state| state.closing = true);
        self.cut();
        // A last connection wakes the acceptor up.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Control {
    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Returns when bytes of a connection of this generation may pass; false if it was cut.
    fn may_pass(&self, generation: u64) -> bool {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| {
                state.stalled && state.generation == generation
            })
            .unwrap();
        state.generation == generation
    }
}

fn connect(
    client: TcpStream,
    target: u16,
    one_way: Duration,
    control: &Arc<Control>,
) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    let mut generation = 0;
    let handles = [client.try_clone()?, server.try_clone()?];
    control.update(|state| {
        generation = state.generation;
        state.streams.extend(handles);
    });
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        to.set_nodelay(true)?;
        let (chunks, queue) = mpsc::channel();
        thread::spawn(move || read(from, one_way, &chunks));
        let control = Arc::clone(control);
        thread::spawn(move || write(to, &queue, &control, generation));
    }
    Ok(())
}

/// Bytes and when they are due; no bytes at the end.
type InputChunk = (Instant, Vec<u8>);

fn read(mut from: TcpStream, one_way: Duration, chunks: &mpsc::Sender<InputChunk>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        // A broken connection ends like a closed one.
        let length = from.read(&mut buffer).unwrap_or(0);
        let chunk = (Instant::now() + one_way, buffer[..length].to_vec());
        if chunks.send(chunk).is_err() || length == 0 {
            return;
        }
    }
}

fn write(mut to: TcpStream, queue: &Receiver<InputChunk>, control: &Control, generation: u64) {
    for (due, bytes) in queue {
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        if !control.may_pass(generation) || bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
