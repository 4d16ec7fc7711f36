//! Opens what received messages go to.

use std::io;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;

use super::{Event, lock};
use crate::common::acks::Backlog;
use crate::common::fault::{Exit, Fault};
use crate::common::random;
use crate::common::runtime::channel::send;
use crate::common::runtime::stdio;
use crate::subscriber::config::{Config, Outlet as Wish};
use crate::subscriber::inbox::Inbox;
use crate::subscriber::inbox::sink::{Broken, Finish, Notice, Sink, Ways};
use crate::subscriber::output::consumer::{Outlet, Plotter};
use crate::subscriber::output::destination::{Destination, OutputFile};
use crate::subscriber::output::executor::Executor;
use crate::subscriber::output::writer::Writer;
use crate::subscriber::plot::model::Chart;
use crate::subscriber::sequence::fingerprint::Key;
use crate::subscriber::sequence::streams::Streams;
use crate::subscriber::session::state_file::State;

/// Opens what messages go to.
pub(super) fn start(
    config: &Config,
    state: Option<Arc<Mutex<State>>>,
    backlog: &Arc<Backlog>,
    events: &Sender<Event>,
    chart: &Arc<Mutex<Chart>>,
) -> anyhow::Result<Sink> {
    let (streams, key) = match &state {
        Some(state) => {
            let state = lock(state);
            (state.streams()?, Some(state.key()))
        }
        None if config.wanted.dedup || config.summary => {
            let key = Key([random::bits()?, random::bits()?]);
            (Streams::default(), Some(key))
        }
        None => (Streams::default(), None),
    };
    let remembers = state.is_some();
    let to_loop = events.clone();
    let notify = move |notice| send(&to_loop, Event::Sink(notice));
    let finish = Finish::new(state, notify.clone());
    let ways = Ways {
        remembers,
        keeps_session: config.session_expiry.is_some(),
        tells_gaps: config.gaps,
        readings: finish.readings(),
    };
    let to_loop = events.clone();
    let write =
        |destination, finish| Writer::start(destination, Arc::clone(backlog), finish, notify);
    let outlet = match &config.outlet {
        Wish::Stdout(style) => {
            watch_reader(to_loop).context("threads cannot be started")?;
            Outlet::Writer(write(Destination::stdout(), finish)?, style.clone())
        }
        Wish::File(file, style) => {
            let out = OutputFile::open(&file.path, file.rotation, style.newline)
                .map_err(|cause| unopened(&file.path, &cause))?;
            Outlet::Writer(write(Destination::File(out), finish)?, style.clone())
        }
        Wish::Chart(picker) => Outlet::Chart(Plotter {
            picker: picker.clone(),
            chart: Arc::clone(chart),
            finish: Mutex::new(finish),
        }),
        Wish::Command { command, jobs } => {
            let executor = Executor::start(command.clone(), *jobs, Arc::clone(backlog), finish);
            Outlet::Executor(executor.context("threads cannot be started")?)
        }
    };
    Ok(Sink::new(
        Inbox::new(config.wanted, streams, key),
        outlet,
        ways,
    ))
}

/// Tells the event loop when nobody reads standard output any more, also while there is nothing to write.
fn watch_reader(events: Sender<Event>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || {
            if stdio::wait_until_stdout_closed() {
                let left = Broken::Output(io::ErrorKind::BrokenPipe.into());
                send(&events, Event::Sink(Notice::Broken(left)));
            }
        })
        .map(drop)
}

/// The output cannot be opened, at first or anew.
pub(super) fn unopened(path: &Path, cause: &io::Error) -> Fault {
    let path = path.display();
    let message = format!("--output {path}: cannot be opened or created: {cause}");
    Fault::permanent(Exit::CannotCreate, message)
}
