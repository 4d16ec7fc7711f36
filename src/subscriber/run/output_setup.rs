//! Opens the output, and the receiver in front of it.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use anyhow::Context as _;
use parking_lot::Mutex;

use super::exit_report::output_not_opened;
use crate::common::acks::SessionAcks;
use crate::common::runtime::random;
use crate::common::runtime::stdio;
use crate::subscriber::config::{Config, OutputConfig};
use crate::subscriber::display::display_data::DisplayData;
use crate::subscriber::message_receiver::selector::MessageSelector;
use crate::subscriber::message_receiver::{LockedState, MessageReceiver, SequenceOptions};
use crate::subscriber::output::completion::{Acknowledger, OutputError, OutputEvent, SaveRecords};
use crate::subscriber::output::destination::{OutputFile, WriterDestination};
use crate::subscriber::output::executor::Executor;
use crate::subscriber::output::sink::{DisplaySink, OutputSink};
use crate::subscriber::output::writer::Writer;
use crate::subscriber::sequence::fingerprint::FingerprintKey;
use crate::subscriber::sequence::streams::Streams;
use crate::subscriber::session::state_file::StateFile;

pub(super) fn open_receiver(
    config: &Config,
    state_file: Option<Arc<Mutex<StateFile>>>,
    session_acks: &Arc<SessionAcks>,
    notify: impl Fn(OutputEvent) + Clone + Send + 'static,
    display: &Arc<Mutex<DisplayData>>,
    last_message: Option<&Arc<Mutex<Instant>>>,
) -> anyhow::Result<MessageReceiver> {
    let (streams, key) = match &state_file {
        Some(state_file) => {
            let state_file = state_file.lock();
            let key = Some(state_file.fingerprint_key());
            (state_file.load_streams()?, key)
        }
        None if config.selection.dedup || config.summary || config.metrics.is_some() => {
            let key = FingerprintKey([random::bits()?, random::bits()?]);
            (Streams::default(), Some(key))
        }
        None => (Streams::default(), None),
    };
    let options = SequenceOptions {
        records_sequence: state_file.is_some(),
        keeps_session: config.session_expiry.is_some(),
        reports_gaps: config.gaps,
    };
    let record = state_file.map(|state_file| -> SaveRecords {
        Box::new(move |records, exchanges| {
            Ok(state_file.lock().record_messages(records, exchanges)?)
        })
    });
    let completed_readings = Arc::new(AtomicU64::new(0));
    let acknowledger = Acknowledger {
        record,
        completed_readings: Arc::clone(&completed_readings),
        notify: Box::new(notify.clone()),
    };
    let session_acks = Arc::clone(session_acks);
    let sink = match &config.output {
        OutputConfig::Stdout(style) => {
            watch_reader(notify).context("threads cannot be started")?;
            let mut out = stdio::stdout();
            if let Some(header) = style.header() {
                match out.write_all(header) {
                    // The thread that watches the reader ends the run.
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                        return Err(e).context("standard output cannot be written");
                    }
                    _ => {}
                }
            }
            let destination = WriterDestination::Stdout(out);
            let writer = Writer::start(destination, session_acks, acknowledger)?;
            OutputSink::Writer(writer, style.clone(), Mutex::default())
        }
        OutputConfig::File(file, style) => {
            let out = OutputFile::open(&file.path, file.rotation, style.newline, style.header())
                .map_err(|cause| output_not_opened(&file.path, &cause))?;
            let writer = Writer::start(WriterDestination::File(out), session_acks, acknowledger)?;
            OutputSink::Writer(writer, style.clone(), Mutex::default())
        }
        OutputConfig::Display(..) => OutputSink::Display(DisplaySink {
            data: Arc::clone(display),
            acknowledger: Mutex::new(acknowledger),
        }),
        OutputConfig::Command { command, jobs } => {
            let executor = Executor::start(command.clone(), *jobs, session_acks, acknowledger);
            OutputSink::Executor(executor.context("threads cannot be started")?)
        }
    };
    let selector = MessageSelector {
        selection: config.selection,
        exclude: config.exclude.clone(),
        removes_retained: config.remove_retained,
        streams,
        key,
        ..MessageSelector::default()
    };
    Ok(MessageReceiver {
        state: Mutex::new(LockedState {
            selector,
            ..LockedState::default()
        }),
        sink,
        options,
        completed_readings,
        last_message: last_message.cloned(),
        last_received_s: AtomicU64::new(0),
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
