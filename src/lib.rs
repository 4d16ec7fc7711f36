//! Device telemetry over MQTT with X.509 mutual TLS, for AWS IoT Core or any broker.
//!
//! The library behind the commands `publisher` and `subscriber`. A reading passes from
//! [`publisher::input`] through [`publisher::outbox`] and [`common::client`] to the broker, whose
//! PUBACK returns to the outbox. A message passes from [`common::transport`] through
//! [`subscriber::message_receiver`] to [`subscriber::output`], and is then acknowledged.
//!
//! Modules that decide are pure: no clock, thread, file or socket, and the time is a parameter. The
//! event loops in [`publisher::run`] and [`subscriber::run`] read the clock and act.
//!
//! `docs/architecture.md` has the data flow, the import rules and the reasons.

pub mod common;
pub mod publisher;
pub mod subscriber;
