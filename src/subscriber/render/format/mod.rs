//! `--format`: a message in the user's own format, in the language of `mosquitto_sub -F`,
//! byte for byte as version 2.0.11 writes it, but for numbers in `%J`, which keep their digits. PURE.
//!
//! `parse.rs` reads the format once, at the start; here it is filled in for each message.
//! `field.rs` knows widths, `moment.rs` times, `json.rs` and `cjson.rs` JSON.

mod cjson;
mod field;
mod json;
mod moment;
mod parse;
#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::time::Duration;

use jiff::tz::TimeZone;

use self::field::{Base, Field};
use self::json::Payload;
use self::moment::Moment;
use super::Remark;
use super::sanitize::Page;
use crate::common::mqtt::message::{PublishProperties, Received};

/// A format, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    zone: TimeZone,
}

/// A part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// To be copied.
    Text(Vec<u8>),
    /// `%`, how to align, and a letter.
    Field(Field, Item),
    /// `@` and a letter that `strftime` knows.
    Time(char),
    /// `@N`, the nanoseconds.
    Nanoseconds,
}

/// What a letter after `%` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Percent,
    TopicAlias,
    ContentType,
    CorrelationData,
    Expiry,
    PayloadFormat,
    IsoTime,
    JsonText,
    JsonValue,
    Length,
    PacketId,
    UserProperties,
    Payload,
    Qos,
    ResponseTopic,
    Retain,
    SubscriptionId,
    Topic,
    UnixTime,
    Hex,
    UpperHex,
}

impl Template {
    /// The most bytes that it writes for each byte of a payload.
    pub fn payload_factor(&self) -> usize {
        let factors = self.pieces.iter().map(|piece| match piece {
            // On a terminal a byte can become four, in JSON six.
            Piece::Field(_, Item::Payload) => 4,
            Piece::Field(_, Item::Hex | Item::UpperHex) => 2,
            Piece::Field(_, Item::JsonText | Item::JsonValue) => 6,
            _ => 0,
        });
        factors.sum()
    }

    /// Reads a format; times are in UTC unless [`in_zone`](Self::in_zone) says otherwise.
    ///
    /// # Errors
    ///
    /// What is wrong with it and how to write it, for formats that `mosquitto_sub` refuses,
    /// and for widths of more than a million, which it does not.
    pub fn parse(format: &str) -> Result<Self, String> {
        Ok(Self {
            pieces: parse::pieces(format)?,
            zone: TimeZone::UTC,
        })
    }

    /// Whether anything in it depends on the time zone.
    pub fn has_local_time(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Time(letter) => *letter != 's',
            Piece::Field(_, item) => {
                matches!(item, Item::IsoTime | Item::JsonText | Item::JsonValue)
            }
            Piece::Text(_) | Piece::Nanoseconds => false,
        })
    }

    /// The same with times in this zone.
    pub fn in_zone(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// Appends a message that arrived at the Unix time `now`, without a newline.
    pub(crate) fn render(
        &self,
        page: &mut Page<'_>,
        message: &Received<'_>,
        now: Duration,
    ) -> Option<Remark> {
        let moment = LazyCell::new(|| Moment::new(now, &self.zone));
        let mut remark = None;
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => page.own(text),
                Piece::Time(letter) => page.own(moment.strftime(*letter).as_bytes()),
                Piece::Nanoseconds => page.own(moment.nanoseconds().as_bytes()),
                Piece::Field(field, item) => {
                    let more = show(page, *field, *item, message, || &moment);
                    remark = remark.or(more);
                }
            }
        }
        remark
    }
}

/// Appends one item. Each has its own mind about alignment and about being absent.
fn show<'m>(
    page: &mut Page<'_>,
    field: Field,
    item: Item,
    message: &Received<'_>,
    moment: impl Fn() -> &'m Moment,
) -> Option<Remark> {
    let none = PublishProperties::default();
    let properties = message.properties.as_ref().unwrap_or(&none);
    match item {
        Item::Percent => page.own(b"%"),
        Item::Qos => page.own(message.qos.level().to_string().as_bytes()),
        Item::Retain => page.own(if message.retained { b"1" } else { b"0" }),
        Item::UnixTime => page.own(moment().unix().as_bytes()),
        Item::IsoTime => field.own(page, moment().iso().as_bytes()),
        Item::Topic => field.name(page, message.topic.as_bytes()),
        Item::Payload => field.payload(page, message.payload),
        Item::Hex => field.hex(page, message.payload, Base::Lower),
        Item::UpperHex => field.hex(page, message.payload, Base::Upper),
        Item::Length => field.integer(page, i64::try_from(message.payload.len()).ok()),
        Item::PacketId => field.integer(page, Some(message.packet_id.into())),
        Item::TopicAlias => field.integer(page, properties.topic_alias.map(i64::from)),
        Item::PayloadFormat => field.integer(page, properties.payload_format.map(i64::from)),
        // It takes these two for signed numbers.
        Item::Expiry => field.integer(page, properties.message_expiry.map(signed)),
        Item::SubscriptionId => {
            field.integer(page, properties.repeated.subscriptions().next().map(signed));
        }
        Item::ContentType => match &properties.content_type {
            Some(content_type) => field.name(page, content_type.as_bytes()),
            None => field.blank(page),
        },
        Item::ResponseTopic => {
            if let Some(topic) = &properties.response_topic {
                field.name(page, topic.as_bytes());
            }
        }
        Item::CorrelationData => {
            page.name(properties.correlation_data.unwrap_or_default());
        }
        Item::UserProperties => {
            for (number, (name, value)) in properties.repeated.user().enumerate() {
                page.own(if number > 0 { b" " } else { b"" });
                page.name(name.as_bytes());
                page.own(b":");
                page.name(value.as_bytes());
            }
        }
        Item::JsonText | Item::JsonValue => {
            let payload = if item == Item::JsonText {
                Payload::Text
            } else {
                Payload::Value
            };
            match json::object(message, moment(), payload) {
                Some(object) => page.json(&object),
                None => return Some(Remark::NotJson),
            }
        }
    }
    None
}

fn signed(number: u32) -> i64 {
    number.cast_signed().into()
}
