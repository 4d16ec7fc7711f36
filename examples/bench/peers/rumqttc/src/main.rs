//! What somebody would write with rumqttc: publish the lines of standard input at QoS 1 and wait for all of them, or
//! receive this many messages onto standard output.
//!
//! ```text
//! rumqttc-client PORT CERTS TOPIC publish
//! rumqttc-client PORT CERTS TOPIC receive QOS COUNT
//! ```

use std::{
    env, fs,
    io::{self, BufRead, BufWriter, Write},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rumqttc::{
    Client, Connection, Event, MqttOptions, Outgoing, Packet, QoS, TlsConfiguration, Transport,
    matches, qos,
};

/// Requests that wait until the connection takes them.
const CAPACITY: usize = 100;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [port, certs, topic, "publish"] => {
            let (client, connection) = connect(port, certs)?;
            publish(client, connection, topic)
        }
        [port, certs, topic, "receive", level, count] => {
            let (client, connection) = connect(port, certs)?;
            let level = qos(level.parse()?).context("QOS is 0, 1 or 2")?;
            receive(&client, connection, topic, level, count.parse()?)
        }
        _ => bail!("usage: rumqttc-client PORT CERTS TOPIC publish | receive QOS COUNT"),
    }
}

fn connect(port: &str, certs: &str) -> anyhow::Result<(Client, Connection)> {
    let read = |name: &str| fs::read(Path::new(certs).join(name)).context(name.to_owned());
    let id = format!("rumqttc-{}", process::id());
    let mut options = MqttOptions::new(id, "localhost", port.parse()?);
    options.set_keep_alive(Duration::from_secs(60));
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
        ca: read("ca.pem")?,
        alpn: None,
        client_auth: Some((read("device.pem.crt")?, read("private.pem.key")?)),
    }));
    let (client, mut connection) = Client::new(options, CAPACITY);
    let mut network = connection.eventloop.network_options();
    network.set_tcp_nodelay(true);
    connection.eventloop.set_network_options(network);
    Ok((client, connection))
}

fn publish(client: Client, mut connection: Connection, topic: &str) -> anyhow::Result<()> {
    // Known when the last line is published.
    let total = Arc::new(AtomicU64::new(u64::MAX));
    let reader = thread::spawn({
        let (client, total, topic) = (client.clone(), Arc::clone(&total), topic.to_owned());
        move || -> anyhow::Result<()> {
            let mut lines = io::stdin().lock().split(b'\n').peekable();
            let mut count = 0;
            while let Some(line) = lines.next() {
                count += 1;
                if lines.peek().is_none() {
                    total.store(count, Ordering::SeqCst);
                }
                client.publish(&topic, QoS::AtLeastOnce, false, line?)?;
            }
            Ok(())
        }
    });
    let mut acknowledged = 0;
    for event in connection.iter() {
        match event? {
            Event::Incoming(Packet::PubAck(_)) => {
                acknowledged += 1;
                if acknowledged == total.load(Ordering::SeqCst) {
                    client.disconnect()?;
                }
            }
            Event::Outgoing(Outgoing::Disconnect) => break,
            _ => {}
        }
    }
    match reader.join() {
        Ok(result) => result,
        Err(_) => bail!("the reader panicked"),
    }
}

fn receive(
    client: &Client,
    mut connection: Connection,
    topic: &str,
    level: QoS,
    count: u64,
) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = count;
    for event in connection.iter() {
        match event? {
            Event::Incoming(Packet::ConnAck(_)) => client.subscribe(topic, level)?,
            Event::Incoming(Packet::Publish(message)) if matches(&message.topic, topic) => {
                out.write_all(&message.payload)?;
                out.write_all(b"\n")?;
                left = left.saturating_sub(1);
                if left == 0 {
                    client.disconnect()?;
                }
            }
            Event::Outgoing(Outgoing::Disconnect) => break,
            _ => {}
        }
    }
    out.flush()?;
    Ok(())
}
