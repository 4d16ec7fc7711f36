//! A run of the subscriber: starts everything, runs the event loop, and ends in order.
//!
//! Messages go from the connection's thread straight into the receiver. The event loop neither handles
//! them nor calls Paho, so neither a blocked output nor a slow name server keeps it from ending.

mod exit_report;
mod output_setup;
mod request;
mod request_sender;
mod retained_message_remover;
mod subscriber;
mod subscriber_metrics;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;

use self::exit_report::{exit_for_counts, print_summary, report_write_failure};
use self::subscriber::{Event, STOP_TIMEOUT, Subscriber};
use self::subscriber_metrics::SubscriberMetrics;
use crate::common::acks::SessionAcks;
use crate::common::client::{Client, ClientConfig, MessageHandlers};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::service_manager::{ServiceManager, is_reloadable_service};
use crate::common::runtime::signals;
use crate::common::runtime::timed_receive::{receive_until, send};
use crate::common::transport::bridge::EndedExchanges;
use crate::subscriber::config::{Config, OutputConfig};
use crate::subscriber::display::display_data::{DisplayData, DisplayKind};
use crate::subscriber::display::screen::Screen;
use crate::subscriber::display::value_extractor::ValueExtractor;
use crate::subscriber::message_receiver::MessageReceiver;
use crate::subscriber::output::completion::{OutputError, OutputEvent};
use crate::subscriber::output::sink::OutputSink;
use crate::subscriber::session::state_file::StateFile;

/// How long retained messages may be removed after the end of a run that no signal ends.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(300);

const OUTPUT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long completed messages may wait at the end for a connection, or at QoS 2 for PUBREL.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(2);

/// The subscriber publishes nothing that fills a window.
const DEFAULT_WINDOW: usize = 100;

/// An error is what kept the run from starting. What fails later is logged, and in the exit code.
#[allow(clippy::too_many_lines, reason = "one step after the other")]
pub fn run(
    config: &Config,
    find_changed_settings: fn() -> Result<Vec<String>, Fault>,
) -> anyhow::Result<Exit> {
    let mut service = ServiceManager::from_environment(instant_now());
    service.begin_step("opening the output", instant_now());
    let (events, queue) = mpsc::channel();
    let state_file = config.state.as_deref().map(StateFile::open).transpose()?;
    let state_file = state_file.map(|file| Arc::new(Mutex::new(file)));
    let session_acks = Arc::new(SessionAcks::default());
    if let Some(state_file) = &state_file {
        let exchanges = state_file.lock().load_exchanges(&config.session_key())?;
        if config.session_expiry.is_some() {
            session_acks.restore_exchanges(exchanges);
        }
    }
    let started = instant_now();
    let (kind, extractor) = match &config.output {
        OutputConfig::Display(kind, extractor) => (*kind, extractor.clone()),
        _ => (DisplayKind::Table, ValueExtractor::default()),
    };
    let endpoint = config.connection.endpoint.to_string();
    let display = DisplayData::new(kind, extractor, &endpoint, started);
    let display = Arc::new(Mutex::new(display));
    let last_message = config.idle_timeout.map(|_| Arc::new(Mutex::new(started)));
    let to_loop = events.clone();
    let notify = move |event| send(&to_loop, Event::Output(event));
    let receiver = output_setup::open_receiver(
        config,
        state_file.clone(),
        &session_acks,
        notify,
        &display,
        last_message.as_ref(),
    )?;
    let receiver = Arc::new(receiver);
    let on_signal = |call: fn(&OutputSink)| -> signals::Callback {
        let receiver = Arc::clone(&receiver);
        Box::new(move || call(&receiver.sink))
    };
    let reopen = matches!(config.output, OutputConfig::File(..));
    let reopen = reopen.then(|| on_signal(OutputSink::reopen));
    let to_loop = events.clone();
    let hang_up: Option<signals::Callback> = if is_reloadable_service() {
        Some(Box::new(move || {
            if let Some(reopen) = &reopen {
                reopen();
            }
            send(&to_loop, Event::Reload(find_changed_settings()));
        }))
    } else {
        reopen
    };
    let abort = Some(on_signal(OutputSink::abort_commands));
    let to_loop = events.clone();
    let stop = move || send(&to_loop, Event::Stop);
    let exit_now = signals::watch_stop_signals(STOP_TIMEOUT, stop, hang_up, abort)
        .context("signals cannot be handled")?;
    exit_now.set(Exit::Success);
    // After that, because its keys raise signals.
    let mut screen = match &config.output {
        OutputConfig::Display(..) => Some(Screen::start(Arc::clone(&display), started)?),
        _ => None,
    };
    let client = start_client(
        config,
        &receiver,
        &session_acks,
        state_file.clone(),
        &events,
    )?;
    let mut metrics = SubscriberMetrics::start(config, &receiver, &session_acks)
        .context("threads cannot be started")?;
    let mut subscriber = Subscriber::start(
        config,
        client,
        session_acks,
        state_file.clone(),
        last_message,
        service,
        started,
    )?;
    while subscriber.pending_exit().is_none() {
        subscriber.handle_time(instant_now());
        if let Some(metrics) = &mut metrics {
            metrics.update(&subscriber, instant_now());
        }
        let readings = receiver.completed_readings.load(Ordering::Relaxed);
        subscriber.notify_service_manager(readings, instant_now());
        if let Some(screen) = &mut screen {
            display
                .lock()
                .update_connection(subscriber.state_machine(), instant_now());
            if let Err(cause) = screen.handle_timeout(instant_now()) {
                subscriber.record_worse_exit(report_write_failure(None, &cause));
                break;
            }
        }
        let redraw_at = screen.as_ref().map(Screen::wake_at);
        let write_at = metrics.as_ref().and_then(SubscriberMetrics::wake_at);
        let wake_at = [subscriber.wake_at(), redraw_at, write_at];
        let until = wake_at.into_iter().flatten().min();
        if let Some(event) = receive_until(&queue, until) {
            subscriber.handle_event(event, instant_now());
        }
    }
    if let Some(screen) = screen {
        screen.draw_last(instant_now());
    }
    // Standard output may block even now.
    exit_now.set(subscriber.pending_exit().unwrap_or(Exit::Success));
    let end_timeout = if config.remove_retained && !subscriber.is_stopping() {
        exit_now.set(Exit::Unavailable);
        REMOVE_TIMEOUT
    } else {
        STOP_TIMEOUT
    };
    let request_timeout = subscriber.request_timeout(instant_now());
    if !request_timeout.is_zero() {
        exit_now.set(Exit::Unavailable);
    }
    let end_timeout = end_timeout + request_timeout;
    signals::exit_after(end_timeout, exit_now).context("threads cannot be started")?;
    subscriber.begin_end(end_timeout, instant_now());
    // What has been received is written and acknowledged before DISCONNECT.
    let completed_by = instant_now() + OUTPUT_TIMEOUT;
    let counts = receiver.close(OUTPUT_TIMEOUT);
    let closed = instant_now();
    subscriber.await_acks(
        &queue,
        closed + ACKNOWLEDGE_TIMEOUT,
        completed_by,
        closed + request_timeout,
    );
    if let Some(state_file) = state_file.as_ref().and_then(|file| file.try_lock()) {
        state_file.checkpoint();
    }
    let (mut exit, reconnects) = subscriber.disconnect(&queue);
    exit = exit.or_worse(exit_for_counts(config, counts));
    if config.summary {
        exit = exit.or_worse(print_summary(counts, reconnects, started));
    }
    if let Some(metrics) = metrics {
        metrics.finish(&subscriber, counts, exit);
    }
    Ok(exit)
}

fn start_client(
    config: &Config,
    receiver: &Arc<MessageReceiver>,
    session_acks: &Arc<SessionAcks>,
    state_file: Option<Arc<Mutex<StateFile>>>,
    events: &Sender<Event>,
) -> anyhow::Result<Client> {
    let (taker, skipper) = (Arc::clone(receiver), Arc::clone(receiver));
    let (to_loop, notify) = (events.clone(), events.clone());
    Client::start(
        ClientConfig {
            session_expiry: config.session_expiry,
            retain_as_published: config.retain_as_published,
            retain_handling: config.retain_handling,
            subscription_identifier: config.subscription_identifier,
            ..config.connection.client_config(DEFAULT_WINDOW, false)
        },
        Some(MessageHandlers {
            on_message: Arc::new(move |message, ticket| taker.handle_message(message, ticket)),
            on_skipped: Arc::new(move |skipped| skipper.handle_skipped(skipped)),
            on_exchanges_ended: Arc::new(move |ended| {
                remove_ended_exchanges(state_file.as_deref(), ended, &notify)
            }),
            session_acks: Arc::clone(session_acks),
        }),
        move |event| send(&to_loop, Event::Client(event)),
    )
    .context("threads cannot be started")
}

/// Removes from the state file what the broker has ended; `false` if that fails.
fn remove_ended_exchanges(
    state: Option<&Mutex<StateFile>>,
    ended: EndedExchanges<'_>,
    events: &Sender<Event>,
) -> bool {
    let Some(state) = state else { return true };
    let forgotten = match ended {
        EndedExchanges::Session => state.lock().forget_exchanges(),
        EndedExchanges::PacketIds(ids) => state.lock().remove_exchanges(ids),
    };
    if let Err(cause) = forgotten {
        let event = OutputEvent::Failed(OutputError::StateFile(cause.into()));
        send(events, Event::Output(event));
        return false;
    }
    true
}
