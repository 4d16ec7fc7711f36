//! MQTT's control packets as they stand on the wire, versions 5.0 and 3.1.1: what a broker may
//! send to a client, and which reason code answers what it may not.
//!
//! Nothing here copies a payload or keeps a connection's state, except [`exchanges`]: which of
//! our packets wait for which answer.
//!
//! * `packet_type` names the types, `framing` finds packets in a stream;
//! * `reader` reads fields, `properties` reads MQTT 5's properties and checks where they stand;
//! * `connack`, `publish`, `acknowledgement`, `disconnect` decode one type each;
//! * `reason_code` names the codes and says which packet may carry which;
//! * `violation` is what a packet that does not fit comes to.

pub mod acknowledgement;
pub mod age;
pub mod connack;
pub mod describe;
pub mod disconnect;
pub mod exchanges;
pub mod framing;
pub mod json;
pub mod limits;
pub mod message;
pub mod packet_type;
pub mod properties;
pub mod publish;
pub mod reader;
pub mod reason_code;
pub mod violation;
