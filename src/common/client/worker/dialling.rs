//! From the wish for a connection to a CONNECT on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use log::warn;

use super::{Dialling, Worker};
use crate::common::client::Event;
use crate::common::client::call::Call;
use crate::common::client::session::{Dialled, Session};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::{clock, wall_clock};
use crate::common::transport::Handle;
use crate::common::transport::bridge::Severed;
use crate::common::transport::credentials::files::Loaded;

/// Connections given up that have not come to their end yet, at most: a name look-up cannot be
/// cut short.
const MAX_ASIDE: usize = 8;

impl<N: Fn(Event)> Worker<N> {
    /// Starts one attempt: a thread that dials, and then carries what is said.
    pub(super) fn attempt(&mut self, generation: u64) -> Result<(), Fault> {
        let endpoint = self.config.route.endpoint.clone();
        if self.threads.load(Ordering::Relaxed) >= MAX_ASIDE {
            let message = format!("{endpoint}: {MAX_ASIDE} earlier attempts are still hanging");
            return Err(Fault::passing(Exit::Unavailable, message));
        }
        let no_threads = |e| {
            Fault::passing(
                Exit::Io,
                format!("{endpoint}: no thread or descriptor to connect with: {e}"),
            )
        };
        let loaded = self.load()?;
        self.switch_at = None;
        self.give_up_dialling();
        self.dials += 1;
        let handle = Arc::new(Handle::default());
        let receiver = match &self.listener {
            Some(listener) => {
                let acks = listener.backlog.begin_connection().map_err(no_threads)?;
                Some((listener.clone(), acks))
            }
            None => None,
        };
        let call = Call {
            generation,
            number: self.dials,
            handle: Arc::clone(&handle),
            receiver,
            v5: self.v5,
            commands: self.commands.clone(),
            config: self.config.clone(),
            loaded,
            first: self.proven,
            deadline: self.deadline.unwrap_or_else(clock),
            threads: Arc::clone(&self.threads),
        };
        self.threads.fetch_add(1, Ordering::Relaxed);
        let spawned = std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || call.make());
        if let Err(e) = spawned {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Err(no_threads(e));
        }
        self.dialling = Some(Dialling {
            generation,
            number: self.dials,
            handle,
        });
        Ok(())
    }

    /// Whether this is the dial that is waited for; it is not any more.
    pub(super) fn dialling(&mut self, number: u64) -> bool {
        self.dialling.take_if(|d| d.number == number).is_some()
    }

    pub(super) fn give_up_dialling(&mut self) {
        if let Some(dialling) = self.dialling.take() {
            dialling.handle.cancel();
        }
    }

    /// There is a connection: says CONNECT on it, with a fresh client.
    pub(super) fn dialled(&mut self, generation: u64, dialled: Dialled) {
        if !self.dialling(dialled.number) {
            return;
        }
        let way = dialled.way.clone();
        let password = self.password.take();
        let password = password.as_deref();
        let session = Session::start(generation, dialled, &self.config, password, &self.commands);
        match session {
            Ok(session) => {
                self.retire();
                self.current = Some(session);
                // Only now: dropping the last client would wait for Paho's threads to end.
                self.aside.retain(Session::is_connecting);
                self.switch_at = self.switch_time(clock());
                self.wake(generation);
            }
            Err(e) => {
                let message = format!("{way}: the MQTT library refuses: {e}");
                self.ended(generation, Fault::permanent(Exit::Config, message));
            }
        }
    }

    /// When a CONNECT that is sent now and not answered is given up for one of MQTT 3.1.1: half of the attempt's time
    /// is left to that. None if it is to have all the time there is.
    fn switch_time(&self, now: Instant) -> Option<Instant> {
        if !self.v5 || !self.versions.would_try_older() {
            return None;
        }
        let share = self.config.connect_timeout / 4;
        let deadline = self.deadline?;
        let half = deadline.checked_sub(share * 2)?;
        let at = half.max(now + share);
        (at + share <= deadline).then_some(at)
    }

    /// Gives MQTT 5 up, which was not answered, and tries 3.1.1 in the same attempt.
    pub(super) fn switch(&mut self) {
        self.switch_at = None;
        let Some(session) = self.current.take_if(|session| session.is_connecting()) else {
            return;
        };
        let generation = session.generation;
        session.cut();
        self.aside.push(session);
        self.versions.unanswered(true, clock());
        self.try_version(generation, false);
    }

    /// Says CONNECT again in the same attempt, with MQTT 5 or 3.1.1.
    pub(super) fn try_version(&mut self, generation: u64, five: bool) {
        self.v5 = five;
        if let Err(fault) = self.attempt(generation) {
            self.ended(generation, fault);
        }
    }

    /// A connection has ended; the client on it is about to notice.
    pub(super) fn severed(&mut self, dial: u64, severed: Severed) {
        if let Some(session) = &mut self.current
            && session.dial == dial
        {
            session.severed = Some(severed);
            let generation = session.generation;
            self.wake(generation);
        }
    }

    /// Files and password for one attempt.
    fn load(&mut self) -> Result<Loaded, Fault> {
        let loaded = self.read_files().map_err(|fault| Fault {
            // Somebody may be replacing them, one after the other.
            permanent: fault.permanent && !self.were_good,
            ..fault
        })?;
        self.were_good = true;
        let now = wall_clock();
        loaded.check_dates(now)?;
        let warning = loaded.ends_soon(now);
        if warning != self.warned {
            if let Some(warning) = &warning {
                warn!("{warning}");
            }
            self.warned = warning;
        }
        Ok(loaded)
    }

    fn read_files(&mut self) -> Result<Loaded, Fault> {
        let loaded = match self.fresh.take() {
            Some(loaded) => loaded,
            None => self.config.files.load()?,
        };
        self.password = match &self.config.password {
            Some(file) => Some(file.read()?),
            None => None,
        };
        Ok(loaded)
    }
}
