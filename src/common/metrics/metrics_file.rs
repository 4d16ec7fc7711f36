//! The file of `--metrics`: written by a thread, so that a disk that hangs never holds up the event loop. A failure is
//! logged as a warning, and has no other effect.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use log::{info, log};

use super::exposition;
use super::metric_family::{MetricFamily, to_f64};
use super::write_schedule::WriteSchedule;
use crate::common::fault::Exit;
use crate::common::runtime::affinity;
use crate::common::runtime::clock::{instant_now, unix_ms};
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::{RepeatFilter, without_numbers};
use crate::common::runtime::replaced_file::ReplacedFile;
use crate::common::runtime::timed_receive::receive_within;

/// `node_exporter` runs as another user.
const MODE: u32 = 0o644;

/// How long the last write may delay the end of the run.
const LAST_WRITE: Duration = Duration::from_millis(500);

enum Request {
    Write(String),
    /// The last one.
    Finish(String, Sender<()>),
}

#[derive(Debug)]
pub struct MetricsFile {
    program: &'static str,
    client_id: String,
    started_ms: u64,
    schedule: WriteSchedule,
    requests: Sender<Request>,
    /// A text is waiting for the thread; no other one is sent meanwhile, so that a hung disk costs no memory.
    is_waiting: Arc<AtomicBool>,
}

impl MetricsFile {
    pub fn start(program: &'static str, client_id: &str, path: &Path) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let file = ReplacedFile::new(path, MODE);
        let is_waiting = Arc::new(AtomicBool::new(false));
        let waiting = Arc::clone(&is_waiting);
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                affinity::unpin();
                write_requests(file, &inbox, &waiting);
            })?;
        Ok(Self {
            program,
            client_id: client_id.to_owned(),
            started_ms: unix_ms(),
            schedule: WriteSchedule::default(),
            requests,
            is_waiting,
        })
    }

    /// Whether to call [`write`](Self::write) now. `events` counts connections made, lost and not made.
    pub fn is_due(&mut self, now: Instant, events: u64) -> bool {
        self.schedule.is_due(now, events)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.schedule.wake_at()
    }

    pub fn write(&mut self, families: Vec<MetricFamily>, now: Instant, events: u64) {
        self.schedule.handle_written(now, events);
        if !self.is_waiting.swap(true, Ordering::Relaxed) {
            let text = self.encode(families, None);
            let _ = self.requests.send(Request::Write(text));
        }
    }

    /// Writes for the last time, unless the disk takes too long.
    pub fn finish(self, families: Vec<MetricFamily>, exit: Exit) {
        let text = self.encode(families, Some(exit));
        let (done, wait) = mpsc::channel();
        if self.requests.send(Request::Finish(text, done)).is_ok() {
            let _ = receive_within(&wait, LAST_WRITE);
        }
    }

    fn encode(&self, mut families: Vec<MetricFamily>, exit: Option<Exit>) -> String {
        let seconds = |ms: u64| to_f64(ms) / 1e3;
        let gauge = MetricFamily::gauge;
        let mut build = gauge("build_info", "The version of the program; always 1.", 1.0);
        for sample in &mut build.samples {
            sample.label = Some(("version", env!("CARGO_PKG_VERSION").to_owned()));
        }
        let (started, now) = (seconds(self.started_ms), seconds(unix_ms()));
        let running = f64::from(u8::from(exit.is_none()));
        families.extend([
            build,
            gauge(
                "running",
                "1 while the program runs, 0 after its end.",
                running,
            ),
            gauge("start_time_seconds", "Unix time of the start.", started),
            gauge("written_timestamp_seconds", "Unix time of this file.", now),
        ]);
        families.extend(exit.map(|exit| {
            let code = f64::from(exit.code());
            gauge(
                "exit_code",
                "The exit code of the run that has ended.",
                code,
            )
        }));
        exposition::encode(self.program, &self.client_id, &families)
    }
}

fn write_requests(mut file: ReplacedFile, inbox: &Receiver<Request>, is_waiting: &AtomicBool) {
    let mut failures = RepeatFilter::default();
    let mut has_failed = false;
    while let Ok(first) = inbox.recv() {
        is_waiting.store(false, Ordering::Relaxed);
        // After a disk that took long, only the latest text matters.
        let latest = inbox.try_iter().last().unwrap_or(first);
        let (text, done) = match latest {
            Request::Write(text) => (text, None),
            Request::Finish(text, done) => (text, Some(done)),
        };
        let result = file.replace(text.as_bytes());
        let shown = file.path().display();
        match result {
            Err(cause) => {
                has_failed = true;
                let what = format!("{shown}: --metrics cannot be written: {cause}");
                let repetition = failures.filter(&without_numbers(&what), instant_now());
                log!(level_of(repetition), "{what}{repetition}");
            }
            Ok(()) if std::mem::take(&mut has_failed) => {
                failures.handle_success(instant_now());
                info!("{shown}: --metrics is written again");
            }
            Ok(()) => {}
        }
        if let Some(done) = done {
            let _ = done.send(());
            return;
        }
    }
}
