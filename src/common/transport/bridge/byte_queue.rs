//! Bytes that wait to be written.

/// The largest piece: a TLS record takes no more, and a WebSocket message need not.
pub(super) const CHUNK: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    pub(super) bytes: Vec<u8>,
    written: usize,
}

impl ByteQueue {
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn append(&mut self, more: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, more);
        } else {
            self.bytes.append(more);
        }
    }

    pub(super) fn advance(&mut self, by: usize) {
        self.written += by;
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.written = 0;
        self.bytes.clear();
        // After one large message not that much memory is kept.
        self.bytes.shrink_to(4 * CHUNK);
    }
}
