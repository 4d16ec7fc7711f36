//! Device telemetry over MQTT with X.509 mutual TLS, for AWS IoT Core or any broker.
//!
//! This library is what the `publisher` and `subscriber` commands are made of. A reading
//! travels one way: source → [`publisher::outbox`] → [`common::link`] → PUBACK; and on the
//! other side broker → [`subscriber::sink`] → acknowledgement.
//!
//! What decides is pure (no clock, thread, file or socket; time is a parameter):
//! [`common::backoff`], [`common::connection`], [`common::queue`], [`common::pacing`],
//! [`common::limits`], [`publisher::outbox`], [`subscriber::subscriptions`],
//! [`subscriber::inbox`]. What acts is at the edge: the event loops in [`publisher::run`]
//! and [`subscriber::run`], and the Paho worker behind [`common::client`].
//!
//! Imports point down: binaries → `publisher`, `subscriber` → `common`. The map, the
//! import rules and the decisions are in `docs/architecture.md`.

pub mod common;
pub mod publisher;
pub mod subscriber;
