//! The publisher's event loop: input → outbox → client, and the deliveries back.
//!
//! The event loop reads the clock (the store's thread has its own). Outbox and connection decide what to do; this module does it.

mod core_pinning;
mod feeder;
mod flush_deadline;
mod older_mqtt_warnings;
mod open_queue;
mod poison_evidence;
mod publisher;
mod publisher_metrics;
mod service;

use std::sync::mpsc;

use anyhow::Context as _;
use open_queue::open_queue;
use publisher::{Event, GRACE_PERIOD, Publisher};

use crate::common::fault::{Exit, Fault};
use crate::common::runtime::c_library::use_one_malloc_arena;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::service_manager::{ServiceManager, is_reloadable_service};
use crate::common::runtime::timed_receive::{receive_until, send};
use crate::common::runtime::{affinity, scheduling, signals};
use crate::publisher::config::Config;
use crate::publisher::input::config::SourceKind;

const BURST: usize = 64;

/// Publishes until the work is done. An error is why the run could not start; later ones are logged,
/// and in the exit code. `find_changed_settings` reads the configuration again.
pub fn run(
    config: &Config,
    find_changed_settings: fn() -> Result<Vec<String>, Fault>,
) -> anyhow::Result<Exit> {
    affinity::pin_to_current_core();
    scheduling::wait_for_free_core();
    let is_one_message =
        matches!(config.input.source, SourceKind::Message(_)) && config.input.repeat == 1;
    if is_one_message && config.queue.is_none() {
        // A stream is faster with a heap for each thread, and so is what waits in a file.
        use_one_malloc_arena();
    }
    let mut service = ServiceManager::from_environment(instant_now());
    service.begin_step("opening the queue", instant_now());
    let (file, queue) = open_queue(config)?;
    let (events, inbox) = mpsc::channel();
    let stop = events.clone();
    let stop = move || send(&stop, Event::Stop);
    let to_loop = events.clone();
    let reload = move || send(&to_loop, Event::Reload(find_changed_settings()));
    let reload = is_reloadable_service().then(|| Box::new(reload) as signals::Callback);
    let exit_now = signals::watch_stop_signals(config.stop_timeout, stop, reload, None)
        .context("signals cannot be handled")?;
    if let Some(deadline) = config.deadline {
        signals::exit_after(deadline + GRACE_PERIOD, exit_now.clone())
            .context("no more threads")?;
    }
    let mut publisher = Publisher::start(config, file, queue, &events, exit_now, service)
        .context("threads cannot be started")?;
    loop {
        publisher.step(instant_now());
        if publisher.is_finished() {
            break;
        }
        if let Some(event) = receive_until(&inbox, publisher.wake_at()) {
            publisher.handle(event, instant_now());
        }
        for event in inbox.try_iter().take(BURST) {
            publisher.handle(event, instant_now());
        }
    }
    Ok(publisher.finish(&inbox))
}
