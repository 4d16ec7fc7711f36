//! MQTT's control packets, versions 5.0 and 3.1.1: what a broker may send to a client, and which reason code answers
//! what it may not; messages, their limits, and their JSON form.
//!
//! Nothing here copies a payload or keeps the state of a connection, except [`awaited_answers`].

pub mod acknowledgement;
pub mod awaited_answers;
pub mod connack;
pub mod disconnect_reason;
pub mod draft;
pub mod field_reader;
pub mod framing;
pub mod limits;
pub mod message_json;
pub mod outgoing_message;
pub mod packet_text;
pub mod packet_type;
pub mod properties;
pub mod publish;
pub mod publish_size;
pub mod qos;
pub mod reason_codes;
pub mod seq_property;
pub mod topic_filter;
pub mod two_clock_time;
pub mod violation;
