//! What a source gives to the event loop, and what it may read.

use std::io;

#[derive(Debug)]
pub enum InputChunk {
    Message {
        /// The line of standard input, or the run of the command, from 1.
        line: u64,
        payload: Vec<u8>,
    },
    Lines {
        /// From 1.
        first: u64,
        count: usize,
        /// Each line ends with a newline, the last one too.
        bytes: Vec<u8>,
    },
}

impl InputChunk {
    pub fn reading_count(&self) -> usize {
        match self {
            InputChunk::Message { .. } => 1,
            InputChunk::Lines { count, .. } => *count,
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            InputChunk::Message { payload, .. } => payload.len() as u64,
            InputChunk::Lines { bytes, .. } => bytes.len() as u64,
        }
    }
}

#[derive(Debug)]
pub enum SourceEvent {
    InputChunk(InputChunk),
    Failed(InputError),
    End,
}

#[derive(Debug)]
pub enum InputError {
    LineTooLong {
        line: u64,
    },
    /// The next run of the command is tried.
    CommandFailed(String),
    ReadFailed(io::Error),
}

/// What a source may read: this many readings, and none that begins after this many bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    pub(super) readings: usize,
    pub(super) bytes: u64,
}

impl Demand {
    pub(super) fn add(&mut self, more: Demand) {
        self.readings = self.readings.saturating_add(more.readings);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }

    pub(super) fn subtract(&mut self, readings: usize, bytes: u64) {
        self.readings = self.readings.saturating_sub(readings);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.readings == 0 || self.bytes == 0
    }
}

pub trait Emit: FnMut(Vec<SourceEvent>) -> bool + Send + 'static {}
impl<F: FnMut(Vec<SourceEvent>) -> bool + Send + 'static> Emit for F {}
