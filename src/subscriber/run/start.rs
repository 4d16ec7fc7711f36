//! Opens the output, and the inbox in front of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use parking_lot::Mutex;

use super::ending::output_not_opened;
use crate::common::acks::Backlog;
use crate::common::random;
use crate::common::runtime::stdio;
use crate::subscriber::config::{Config, OutputKind};
use crate::subscriber::inbox::selector::Selector;
use crate::subscriber::inbox::{Inbox, InboxOptions, InboxState};
use crate::subscriber::output::completion::{Acknowledger, OutputError, OutputEvent, Record};
use crate::subscriber::output::consumer::{Consumer, Plotter};
use crate::subscriber::output::destination::{Destination, OutputFile};
use crate::subscriber::output::executor::Executor;
use crate::subscriber::output::writer::Writer;
use crate::subscriber::plot::chart_data::ChartData;
use crate::subscriber::sequence::fingerprint::FingerprintKey;
use crate::subscriber::sequence::streams::Streams;
use crate::subscriber::session::state_file::StateFile;

pub(super) fn open_inbox(
    config: &Config,
    state_file: Option<Arc<Mutex<StateFile>>>,
    backlog: &Arc<Backlog>,
    notify: impl Fn(OutputEvent) + Clone + Send + 'static,
    chart: &Arc<Mutex<ChartData>>,
) -> anyhow::Result<Inbox> {
    let (streams, key) = match &state_file {
        Some(state_file) => {
            let state_file = state_file.lock();
            (state_file.load_streams()?, Some(state_file.key()))
        }
        None if config.selection.dedup || config.summary => {
            let key = FingerprintKey([random::bits()?, random::bits()?]);
            (Streams::default(), Some(key))
        }
        None => (Streams::default(), None),
    };
    let options = InboxOptions {
        records_sequence: state_file.is_some(),
        keeps_session: config.session_expiry.is_some(),
        reports_gaps: config.gaps,
    };
    let record = state_file.map(|state_file| -> Record {
        Box::new(move |records, exchanges| Ok(state_file.lock().record(records, exchanges)?))
    });
    let completed_readings = Arc::new(AtomicU64::new(0));
    let acknowledger = Acknowledger {
        record,
        completed_readings: Arc::clone(&completed_readings),
        notify: Box::new(notify.clone()),
    };
    let backlog = Arc::clone(backlog);
    let consumer = match &config.output {
        OutputKind::Stdout(style) => {
            watch_reader(notify).context("threads cannot be started")?;
            let destination = Destination::Stdout(stdio::stdout());
            let writer = Writer::start(destination, backlog, acknowledger)?;
            Consumer::Writer(writer, style.clone())
        }
        OutputKind::File(file, style) => {
            let out = OutputFile::open(&file.path, file.rotation, style.newline)
                .map_err(|cause| output_not_opened(&file.path, &cause))?;
            let writer = Writer::start(Destination::File(out), backlog, acknowledger)?;
            Consumer::Writer(writer, style.clone())
        }
        OutputKind::Chart(extractor) => Consumer::Chart(Plotter {
            extractor: extractor.clone(),
            chart: Arc::clone(chart),
            acknowledger: Mutex::new(acknowledger),
        }),
        OutputKind::Command { command, jobs } => {
            let executor = Executor::start(command.clone(), *jobs, backlog, acknowledger);
            Consumer::Executor(executor.context("threads cannot be started")?)
        }
    };
    let selector = Selector {
        selection: config.selection,
        streams,
        key,
        ..Selector::default()
    };
    Ok(Inbox {
        state: Mutex::new(InboxState {
            selector,
            ..InboxState::default()
        }),
        consumer,
        options,
        completed_readings,
    })
}

fn watch_reader(notify: impl Fn(OutputEvent) + Send + 'static) -> io::Result<()> {
    let builder = std::thread::Builder::new().name("reader".into());
    let watch = move || {
        if stdio::wait_until_stdout_closed() {
            let error = OutputError::Write(io::ErrorKind::BrokenPipe.into());
            notify(OutputEvent::Failed(error));
        }
    };
    builder.spawn(watch).map(drop)
}
