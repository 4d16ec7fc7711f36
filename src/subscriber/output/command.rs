//! What a command of `--exec` is given of a message: the payload on standard input, the rest in the environment.

use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;

use crate::common::mqtt::json::rfc3339;
use crate::common::mqtt::message::{Qos, Received, SeqProperty};
use crate::common::runtime::process::RunOptions;
use crate::common::transport::bridge::OutOfMemory;

/// A message whose readings wait for their commands.
#[derive(Debug)]
pub struct Envelope {
    topic: String,
    payload: Vec<u8>,
    qos: Qos,
    retained: bool,
    seq: Option<SeqProperty>,
}

/// A reading that waits for its command: a part of the payload.
#[derive(Clone, Debug)]
pub struct Job {
    envelope: Arc<Envelope>,
    begin: usize,
    end: usize,
}

impl Envelope {
    /// A message, to be kept.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn of(message: &Received<'_>) -> Result<Self, OutOfMemory> {
        let mut payload = Vec::new();
        payload
            .try_reserve_exact(message.payload.len())
            .map_err(|_| OutOfMemory)?;
        payload.extend_from_slice(message.payload);
        Ok(Self {
            topic: message.topic.to_owned(),
            payload,
            qos: message.qos,
            retained: message.retained,
            seq: message.seq.clone(),
        })
    }

    /// Bytes of payload and topic.
    pub fn bytes(&self) -> u64 {
        (self.payload.len() + self.topic.len()) as u64
    }

    /// The reading that begins there: the whole payload, or in a batch up to the next newline.
    pub fn job(self: &Arc<Self>, begin: usize, is_batch: bool) -> Job {
        let rest = self.payload.get(begin..).unwrap_or_default();
        let length = memchr(b'\n', rest).filter(|_| is_batch);
        Job {
            envelope: Arc::clone(self),
            begin,
            end: begin + length.unwrap_or(rest.len()),
        }
    }
}

impl Job {
    fn payload(&self) -> &[u8] {
        let payload = &self.envelope.payload;
        payload.get(self.begin..self.end).unwrap_or_default()
    }

    /// Where the reading behind it begins.
    pub fn next(&self) -> usize {
        self.end + 1
    }

    /// The run of a command for it.
    pub fn task(&self) -> RunOptions<'_> {
        let message = &self.envelope;
        let seq = message.seq.as_ref();
        let taken = seq.map(|seq| rfc3339(Duration::from_millis(seq.accepted_ms)));
        RunOptions {
            env: vec![
                ("MQTT_TOPIC", Some(message.topic.clone())),
                ("MQTT_QOS", Some(message.qos.level().to_string())),
                ("MQTT_RETAIN", Some(u8::from(message.retained).to_string())),
                // Other than a topic it may hold anything.
                (
                    "MQTT_STREAM",
                    seq.map(|seq| seq.stream.replace('\0', "\u{fffd}")),
                ),
                ("MQTT_SEQ", seq.map(|seq| seq.seq.to_string())),
                ("MQTT_TAKEN", taken),
            ],
            input: Some(self.payload()),
            output: None,
        }
    }

    /// The message, as the log names it.
    pub fn name(&self) -> String {
        let seq = self.envelope.seq.as_ref();
        let number = seq.map(|seq| format!(" {}/{}", seq.stream, seq.seq));
        let number = number.unwrap_or_default();
        format!("message{number} on {:?}", self.envelope.topic)
    }
}
