//! Output as it arrives: what a pipe or terminal delivers, in lines with their times,
//! to be waited for.

use std::{
    io::Read,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// One line without its newline.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) at: Instant,
}

/// Lines collected in the background, from one source or from several in turn.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Where in `bytes` the line begins that has no newline yet.
    unfinished: usize,
    open_sources: usize,
}

impl Lines {
    /// Collects from `source` until its end, on its own thread.
    pub(crate) fn collect(&self, mut source: impl Read + Send + 'static) {
        self.update(|state| state.open_sources += 1);
        let lines = self.clone();
        thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            // A terminal reports its end as an error.
            while let Ok(length @ 1..) = source.read(&mut chunk) {
                let at = Instant::now();
                lines.update(|state| state.push(&chunk[..length], at));
            }
            lines.update(|state| {
                state.open_sources -= 1;
                if state.unfinished < state.bytes.len() {
                    state.push(b"\n", Instant::now());
                    state.bytes.pop();
                    state.unfinished = state.bytes.len();
                }
            });
        });
    }

    /// The first line so far or from now on that fits.
    pub(crate) fn wait(&self, within: Duration, fits: impl Fn(&str) -> bool) -> Option<Line> {
        self.wait_from(0, within, fits)
    }

    /// The first line that fits among those after the first `skip`; none at the end of
    /// the output.
    pub(crate) fn wait_from(
        &self,
        skip: usize,
        within: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Option<Line> {
        let mut next = skip;
        let mut found = None;
        self.wait_state(within, |state| {
            while found.is_none() && next < state.lines.len() {
                found = Some(&state.lines[next])
                    .filter(|line| fits(&line.text))
                    .cloned();
                next += 1;
            }
            found.is_some() || state.open_sources == 0
        });
        found
    }

    /// Whether there are `count` lines in time.
    pub(crate) fn wait_count(&self, count: usize, within: Duration) -> bool {
        self.wait_state(within, |state| {
            state.lines.len() >= count || state.open_sources == 0
        });
        self.count() >= count
    }

    /// Whether every source ended in time.
    pub(crate) fn wait_end(&self, within: Duration) -> bool {
        self.wait_state(within, |state| state.open_sources == 0)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.0.lock().unwrap().lines.len()
    }

    /// How many lines so far fit.
    pub(crate) fn count_of(&self, fits: impl Fn(&str) -> bool) -> usize {
        let state = self.0.0.lock().unwrap();
        state.lines.iter().filter(|line| fits(&line.text)).count()
    }

    pub(crate) fn all(&self) -> Vec<Line> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// Every byte so far, a line that has no newline yet included.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn wait_state(&self, within: Duration, mut done: impl FnMut(&State) -> bool) -> bool {
        let state = self.0.0.lock().unwrap();
        let (_state, timeout) = self
            .0
            .1
            .wait_timeout_while(state, within, |state| !done(state))
            .unwrap();
        !timeout.timed_out()
    }
}

impl State {
    fn push(&mut self, chunk: &[u8], at: Instant) {
        for part in chunk.split_inclusive(|&byte| byte == b'\n') {
            self.bytes.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = &self.bytes[self.unfinished..self.bytes.len() - 1];
                let text = String::from_utf8_lossy(line).into_owned();
                self.lines.push(Line { text, at });
                self.unfinished = self.bytes.len();
            }
        }
    }
}
