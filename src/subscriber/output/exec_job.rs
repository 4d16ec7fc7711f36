//! What a command of `--exec` gets of a message: the payload on standard input, the rest in the environment.

use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;

use crate::common::mqtt::message_json::rfc3339;
use crate::common::mqtt::publish::Received;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::seq_property::SeqProperty;
use crate::common::runtime::process::RunOptions;
use crate::common::transport::bridge::OutOfMemory;

pub struct ExecMessage {
    topic: String,
    payload: Vec<u8>,
    qos: Qos,
    retained: bool,
    seq: Option<SeqProperty>,
}

impl ExecMessage {
    pub fn of(message: &Received<'_>) -> Result<Self, OutOfMemory> {
        let mut payload = Vec::new();
        let reserved = payload.try_reserve_exact(message.payload.len());
        reserved.map_err(|_| OutOfMemory)?;
        payload.extend_from_slice(message.payload);
        Ok(Self {
            topic: message.topic.to_owned(),
            payload,
            qos: message.qos,
            retained: message.retained,
            seq: message.seq.clone(),
        })
    }

    pub fn size_in_bytes(&self) -> u64 {
        (self.payload.len() + self.topic.len()) as u64
    }

    /// The job of the reading at `begin`: the rest of the payload, or of a batch one line.
    pub fn job_at_byte(self: &Arc<Self>, begin: usize, is_batch: bool) -> ExecJob {
        let rest = self.payload.get(begin..).unwrap_or_default();
        let length = memchr(b'\n', rest).filter(|_| is_batch);
        ExecJob {
            message: Arc::clone(self),
            begin,
            end: begin + length.unwrap_or(rest.len()),
        }
    }
}

pub struct ExecJob {
    message: Arc<ExecMessage>,
    begin: usize,
    pub end: usize,
}

impl ExecJob {
    pub fn run_options(&self) -> RunOptions<'_> {
        let message = &self.message;
        let seq = message.seq.as_ref();
        let taken = seq.map(|seq| rfc3339(Duration::from_millis(seq.accepted_ms)));
        // Unlike a topic, a stream's name may contain NUL.
        let stream = seq.map(|seq| seq.stream.replace('\0', "\u{fffd}"));
        let input = message.payload.get(self.begin..self.end);
        RunOptions {
            env: vec![
                ("MQTT_TOPIC", Some(message.topic.clone())),
                ("MQTT_QOS", Some(message.qos.level().to_string())),
                ("MQTT_RETAIN", Some(u8::from(message.retained).to_string())),
                ("MQTT_STREAM", stream),
                ("MQTT_SEQ", seq.map(|seq| seq.seq.to_string())),
                ("MQTT_TAKEN", taken),
            ],
            input: Some(input.unwrap_or_default()),
            output: None,
        }
    }

    pub fn describe_message(&self) -> String {
        let seq = self.message.seq.as_ref();
        let number = seq.map_or(String::new(), |seq| format!(" {}/{}", seq.stream, seq.seq));
        format!("message{number} on {:?}", self.message.topic)
    }
}
