//! MQTT.js, a client for Node.js that parses and writes packets on its own: it reads every property as `publisher` set
//! it, and `subscriber` reads every property as MQTT.js set it.

use std::io::Cursor;
use std::process::{Command, Stdio};

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};

use crate::harness::process::{Process, command};
use crate::harness::{
    Broker, Program, SOON,
    lines::{Line, Lines},
    temp_dir, wait_until,
};
use crate::properties::FLAGS;

/// `tests/it/mqtt_js.js` with these words, where it finds MQTT.js.
fn mqtt_js(words: &[&str]) -> Command {
    let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/setup-npm");
    let asked = command(setup).args(["--path", "peers"]).output().unwrap();
    assert!(
        asked.status.success(),
        "run scripts/setup and scripts/setup-npm peers: {asked:?}"
    );
    let modules = String::from_utf8(asked.stdout).unwrap();
    let mut node = command("node");
    node.env("NODE_PATH", modules.trim());
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/mqtt_js.js"));
    node.args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    node
}

/// A MQTT.js that has subscribed, with QoS 2; ended when dropped.
struct Subscriber {
    lines: Lines,
    _process: Process,
}

impl Subscriber {
    fn start(broker: &Broker, filter: &str) -> Self {
        let port = broker.port().to_string();
        let mut process = Process::spawn(mqtt_js(&["subscribe", &port, filter]));
        let lines = Lines::default();
        lines.collect(process.child().stdout.take().unwrap());
        let subscribed = lines.wait(SOON, |line| line == "subscribed");
        assert!(subscribed.is_some(), "{}", lines.text());
        Self {
            lines,
            _process: process,
        }
    }

    /// The first `count` messages, by topic.
    fn messages(&self, count: usize) -> Vec<Value> {
        // Retained ones may come before the program has seen the SUBACK.
        let is_message = |line: &str| line.starts_with('{');
        let enough = || self.lines.count_of(is_message) >= count;
        assert!(wait_until(SOON, enough), "{}", self.lines.text());
        let lines = self.lines.all();
        let messages = lines.iter().filter(|line| is_message(&line.text));
        let json = |line: &Line| serde_json::from_str::<Value>(&line.text).unwrap();
        let mut messages: Vec<_> = messages.map(json).collect();
        messages.sort_by_key(|message| message["topic"].as_str().unwrap().to_owned());
        messages
    }
}

/// One message, as our programs and as MQTT.js write it.
struct Message {
    qos: u8,
    retain: bool,
    payload: Vec<u8>,
    ours: Value,
    theirs: Value,
}

fn any_bytes() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

/// Each property alone and all together, with text, binary and empty payloads, retained or not. MQTT.js keeps repeated
/// names of user properties in their order, but not the order of different names.
fn messages() -> Vec<Message> {
    let (base64, hex) = (BASE64.encode(&any_bytes()), HEXLOWER.encode(&any_bytes()));
    let all = |format: u8| {
        let ours = json!({
            "payload-format-indicator": format,
            "content-type": "text/plain; charset=\"utf-8\"",
            "response-topic": "answers/\u{e9}/7",
            "correlation-data-base64": base64,
            "user-properties": [["site", "7"], ["", "= \\ \" \u{b0}C"], ["site", "8"], ["\u{1f600}", ""], ["site", "7"]],
            "message-expiry-interval": 86_400,
        });
        let theirs = json!({
            "payloadFormatIndicator": format == 1,
            "contentType": "text/plain; charset=\"utf-8\"",
            "responseTopic": "answers/\u{e9}/7",
            "correlationData": hex,
            "userProperties": {"site": ["7", "8", "7"], "": "= \\ \" \u{b0}C", "\u{1f600}": ""},
            "messageExpiryInterval": 86_400,
        });
        (ours, theirs)
    };
    let long = "x".repeat(65_535);
    let single = [
        (json!({}), json!({})),
        (
            json!({"payload-format-indicator": 0}),
            json!({"payloadFormatIndicator": false}),
        ),
        (
            json!({"payload-format-indicator": 1}),
            json!({"payloadFormatIndicator": true}),
        ),
        (json!({"content-type": long}), json!({"contentType": long})),
        (
            json!({"response-topic": "a"}),
            json!({"responseTopic": "a"}),
        ),
        (
            json!({"correlation-data": ""}),
            json!({"correlationData": ""}),
        ),
        (
            json!({"correlation-data": "\u{e9}\u{0}"}),
            json!({"correlationData": "c3a900"}),
        ),
        (
            json!({"user-properties": [["a", long], ["a", ""]]}),
            json!({"userProperties": {"a": [long, ""]}}),
        ),
        (
            json!({"message-expiry-interval": u32::MAX}),
            json!({"messageExpiryInterval": u32::MAX}),
        ),
    ];
    let text = "21.5 \u{b0}C\r\n".as_bytes().to_vec();
    let payloads = [(1, text), (0, any_bytes()), (1, Vec::new())];
    let all = payloads.map(|(format, payload)| (payload, all(format)));
    let single = single.map(|properties| (b"21.5".to_vec(), properties));
    let both = all.into_iter().chain(single).enumerate();
    let each = both.flat_map(|(number, (payload, (ours, theirs)))| {
        [false, true].map(|retain| Message {
            qos: u8::try_from(number % 3).unwrap(),
            retain,
            payload: payload.clone(),
            ours: ours.clone(),
            theirs: theirs.clone(),
        })
    });
    each.collect()
}

fn topic(number: usize) -> String {
    format!("t/{number:03}")
}

/// The line of JSON that `publisher` reads.
fn our_line(number: usize, message: &Message) -> String {
    let line = json!({
        "topic": topic(number),
        "qos": message.qos,
        "retain": message.retain,
        "payload_base64": BASE64.encode(&message.payload),
        "properties": message.ours,
    });
    format!("{line}\n")
}

/// The line that MQTT.js reads, and prints if this is the retain flag with which the message arrives.
fn their_json(number: usize, message: &Message, retain: bool) -> Value {
    json!({
        "topic": topic(number),
        "qos": message.qos,
        "retain": retain,
        "payload": HEXLOWER.encode(&message.payload),
        "properties": message.theirs,
    })
}

/// Expects messages equal, but for the seconds that a message has waited in the broker.
#[track_caller]
fn expect_equal(mut found: Value, mut wanted: Value, expiry: &str) {
    let seconds = |message: &mut Value| match message["properties"].get_mut(expiry) {
        Some(seconds) => seconds.take().as_u64().unwrap(),
        None => 0,
    };
    let (left, set) = (seconds(&mut found), seconds(&mut wanted));
    assert_eq!(found, wanted);
    assert!((set.saturating_sub(60)..=set).contains(&left), "{left}");
}

#[test]
fn mqtt_js_reads_every_property_as_publisher_set_it() {
    let broker = Broker::builder().plain().start();
    let live = Subscriber::start(&broker, "t/#");
    let messages = messages();
    let input = messages.iter().enumerate().map(|(n, m)| our_line(n, m));
    let publisher = Program::publisher().to(&broker);
    let publisher = publisher.args(["-l", "--input", "json", "--no-sequence"]);
    let publisher = publisher.stdin(Cursor::new(input.collect::<String>()));
    publisher.run(SOON).expect_code(0);
    let found = live.messages(messages.len());
    for (number, (found, message)) in found.into_iter().zip(&messages).enumerate() {
        let wanted = their_json(number, message, false);
        expect_equal(found, wanted, "messageExpiryInterval");
    }
    let is_kept = |(_, message): &(usize, &Message)| message.retain && !message.payload.is_empty();
    let kept: Vec<_> = messages.iter().enumerate().filter(is_kept).collect();
    let found = Subscriber::start(&broker, "t/#").messages(kept.len());
    for (found, (number, message)) in found.into_iter().zip(kept) {
        let wanted = their_json(number, message, true);
        expect_equal(found, wanted, "messageExpiryInterval");
    }
}

#[test]
fn mqtt_js_reads_every_property_as_the_flags_of_publisher_set_it() {
    let broker = Broker::builder().plain().start();
    let subscriber = Subscriber::start(&broker, "t");
    let publisher = Program::publisher().to(&broker).args(FLAGS);
    let publisher = publisher.args(["--expiry", "1m", "-t", "t", "-m", "21.5", "--no-sequence"]);
    publisher.run(SOON).expect_code(0);
    let wanted = json!({
        "topic": "t",
        "qos": 1,
        "retain": false,
        "payload": HEXLOWER.encode(b"21.5"),
        "properties": {
            "payloadFormatIndicator": true,
            "messageExpiryInterval": 60,
            "contentType": "text/plain; charset=utf-8",
            "responseTopic": "answers/7",
            "correlationData": HEXLOWER.encode(b"-r 1"),
            "userProperties": {"site": ["7", "8"], "unit": "\u{b0}C=x"},
        },
    });
    let found = subscriber.messages(1).remove(0);
    expect_equal(found, wanted, "messageExpiryInterval");
}

#[test]
fn subscriber_reads_every_property_as_mqtt_js_set_it() {
    let broker = Broker::builder().plain().start();
    let messages = messages();
    let subscriber = Program::subscriber().to(&broker);
    let subscriber = subscriber.args(["-t", "t/#", "-q", "2", "-J", "-d", "-C"]);
    let subscriber = subscriber.args([&messages.len().to_string(), "--retain-as-published"]);
    let subscriber = subscriber.start();
    subscriber.wait_subscribed();

    let dir = temp_dir();
    let input = dir.path().join("input");
    let lines = messages.iter().enumerate();
    let lines = lines.map(|(n, m)| format!("{}\n", their_json(n, m, m.retain)));
    std::fs::write(&input, lines.collect::<String>()).unwrap();
    let mut sender = mqtt_js(&["publish", &broker.port().to_string()]);
    sender.stdin(std::fs::File::open(&input).unwrap());
    let sent = sender.output().unwrap();
    assert!(sent.status.success(), "{sent:?}");

    let printed = subscriber.finish(SOON).expect_code(0).stdout.text();
    let mut found: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    found.sort_by_key(|message| message["topic"].as_str().unwrap().to_owned());
    assert_eq!(found.len(), messages.len());
    for (number, (mut found, message)) in found.into_iter().zip(&messages).enumerate() {
        let mut wanted = json!({
            "topic": topic(number),
            "qos": message.qos,
            "retain": u8::from(message.retain),
            "payloadlen": message.payload.len(),
            "properties": message.ours,
        });
        match std::str::from_utf8(&message.payload) {
            Ok(text) => wanted["payload"] = text.into(),
            Err(_) => wanted["payload_base64"] = BASE64.encode(&message.payload).into(),
        }
        found.as_object_mut().unwrap().remove("tst").unwrap();
        if message.ours == json!({}) {
            wanted.as_object_mut().unwrap().remove("properties");
        } else {
            group_by_name(&mut found["properties"]);
            group_by_name(&mut wanted["properties"]);
        }
        expect_equal(found, wanted, "message-expiry-interval");
    }
}

/// MQTT.js sends user properties of one name together.
fn group_by_name(properties: &mut Value) {
    if let Some(pairs) = properties.get_mut("user-properties") {
        let pairs = pairs.as_array_mut().unwrap();
        pairs.sort_by_key(|pair| pair[0].as_str().unwrap().to_owned());
    }
}
