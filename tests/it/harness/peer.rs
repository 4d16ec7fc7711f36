//! Mosquitto's own clients as witnesses: whether our programs' view of the broker is
//! also another client's.

use std::{
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{
    SOON,
    broker::Broker,
    certs::certs,
    lines::{Line, Lines},
    process::{Process, command},
};

/// A `mosquitto_sub` at QoS 1 that is subscribed; ended when dropped.
///
/// It keeps its session, and reconnects automatically. So with a
/// [persistent](super::broker::BrokerBuilder::persistent) broker it has been there all
/// along, whatever happened in between.
pub(crate) struct Witness {
    pub(crate) lines: Lines,
    _process: Process,
}

impl Witness {
    /// Payloads, one per line.
    pub(crate) fn start(broker: &Broker, filter: &str) -> Self {
        Self::with_format(broker, filter, "%p")
    }

    /// Messages in the `-F` format of `mosquitto_sub`, one per line.
    pub(crate) fn with_format(broker: &Broker, filter: &str, format: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = format!("witness-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = client("mosquitto_sub", broker);
        command.args(["-V", "mqttv5", "-c", "-x", "3600", "-i", &id]);
        command.args(["-q", "1", "-t", filter, "-F", format]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::spawn(command);
        let lines = Lines::default();
        lines.collect(process.child().stdout.take().unwrap());

        let subscribed = format!("{id} 1 {filter}");
        let seen = broker.log().wait(SOON, |line| line.ends_with(&subscribed));
        assert!(
            seen.is_some(),
            "{id} did not subscribe:\n{}",
            broker.log().text()
        );
        Self {
            lines,
            _process: process,
        }
    }

    /// The first `count` messages.
    pub(crate) fn messages(&self, count: usize, within: Duration) -> Vec<Line> {
        let enough = self.lines.wait_count(count, within);
        let mut lines = self.lines.all();
        let found = lines.len();
        assert!(enough, "{found} of {count} messages in {within:?}");
        lines.truncate(count);
        lines
    }

    /// The texts of the first `count` messages.
    pub(crate) fn texts(&self, count: usize) -> Vec<String> {
        let lines = self.messages(count, SOON);
        lines.into_iter().map(|line| line.text).collect()
    }
}

/// Publishes one message at QoS 1 with `mosquitto_pub`.
pub(crate) fn publish(broker: &Broker, topic: &str, payload: &str) -> Output {
    client("mosquitto_pub", broker)
        .args(["-q", "1", "-t", topic, "-m", payload])
        .output()
        .expect("mosquitto_pub")
}

/// Publishes an `x` with this `seq` property, `STREAM/SEQ/MS`, as any sender may.
pub(crate) fn publish_numbered(broker: &Broker, topic: &str, seq: &str) {
    let mut client = client("mosquitto_pub", broker);
    client.args(["-V", "mqttv5", "-q", "1", "-t", topic, "-m", "x"]);
    client.args(["-D", "publish", "user-property", "seq", seq]);
    assert!(client.status().expect("mosquitto_pub").success());
}

/// One of Mosquitto's clients with all that it needs to connect to this broker.
pub(crate) fn client(name: &str, broker: &Broker) -> Command {
    let mut command = command(name);
    command.args(["-h", "localhost", "-p", &broker.port().to_string()]);
    if broker.has_tls() {
        let device = &certs().device;
        command.arg("--cafile").arg(&certs().ca);
        command.arg("--cert").arg(&device.cert);
        command.arg("--key").arg(&device.key);
    }
    command
}
