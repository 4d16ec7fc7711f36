//! A TCP relay on loopback that counts the bytes of its connections, both directions together.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::measure::until;

/// It runs until the process ends.
pub(crate) struct CountingRelay {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    bytes: AtomicU64,
    /// Directions that have not ended.
    open: AtomicUsize,
}

impl CountingRelay {
    /// Listens on a free port.
    pub(crate) fn start(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let relay = Self {
            port,
            state: Arc::clone(&state),
        };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Without a target the client sees its connection closed.
                let _ = connect(&client, target, &state);
            }
        });
        Ok(relay)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes since the last call, when all connections have ended.
    pub(crate) fn take(&self) -> anyhow::Result<u64> {
        until("the end of the connections", || {
            self.state.open.load(Ordering::SeqCst) == 0
        })?;
        Ok(self.state.bytes.swap(0, Ordering::SeqCst))
    }
}

fn connect(client: &TcpStream, target: u16, state: &Arc<State>) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    let directions = [
        (client.try_clone()?, server.try_clone()?),
        (server, client.try_clone()?),
    ];
    state.open.fetch_add(directions.len(), Ordering::SeqCst);
    for (from, to) in directions {
        let state = Arc::clone(state);
        thread::spawn(move || {
            pass(from, to, &state.bytes);
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, bytes: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    loop {
        // A broken connection ends like a closed one.
        let length = from.read(&mut buffer).unwrap_or(0);
        bytes.fetch_add(length as u64, Ordering::SeqCst);
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
