//! What a connection of MQTT 3.1.1 cannot carry is warned about once.

use std::sync::Arc;

use log::warn;

use crate::common::broker::endpoint::Endpoint;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::outgoing_message::OutgoingMessage;

#[derive(Debug, Default)]
pub(super) struct OlderMqttWarnings {
    batches: bool,
    properties: bool,
}

impl OlderMqttWarnings {
    pub(super) fn warn_once(
        &mut self,
        endpoint: &Endpoint,
        messages: &[(u64, Arc<OutgoingMessage>)],
    ) {
        let mut drafts = messages.iter().map(|(_, message)| &message.draft);
        if !self.batches && drafts.clone().any(Draft::is_batch) {
            self.batches = true;
            warn!(
                "{endpoint}: the connection uses MQTT 3.1.1, with which receivers cannot tell batches from \
                 messages"
            );
        }
        if !self.properties && drafts.any(|draft| draft.properties.is_some()) {
            self.properties = true;
            warn!(
                "{endpoint}: the connection uses MQTT 3.1.1, with which messages go without their \
                 properties"
            );
        }
    }
}
