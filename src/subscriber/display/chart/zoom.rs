//! The length of the time axis. PURE.

use crate::subscriber::display::ms::Ms;

pub const MAX_WINDOW: Ms = 24 * 3600 * 1000;

const WINDOWS: [Ms; 8] = [10, 30, 60, 300, 900, 3600, 6 * 3600, MAX_WINDOW / 1000];

const INITIAL: usize = 2;

/// Of an automatic window.
const MIN_SPAN: Ms = 5000;

const MIN_READINGS: Ms = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoomCommand {
    In,
    Out,
    Auto,
}

#[derive(Debug)]
pub struct ZoomLevel {
    index: usize,
    is_chosen: bool,
}

impl ZoomLevel {
    pub(super) fn new() -> Self {
        Self {
            index: INITIAL,
            is_chosen: false,
        }
    }

    /// An automatic window begins with the span of the data, and grows with it up to its length. `first` is the time of
    /// the first reading.
    pub fn span(&self, first: Option<Ms>, now: Ms) -> Ms {
        let length = self.length();
        match first {
            Some(first) if !self.is_chosen => {
                // In whole seconds, so that not every frame has another scale.
                let data = now.saturating_sub(first).max(0);
                let rounded = data.saturating_add(999) / 1000 * 1000;
                rounded.clamp(MIN_SPAN, length)
            }
            _ => length,
        }
    }

    fn length(&self) -> Ms {
        WINDOWS[self.index] * 1000
    }

    pub fn zoom(&mut self, zoom: ZoomCommand) {
        self.is_chosen = zoom != ZoomCommand::Auto;
        self.index = match zoom {
            ZoomCommand::In => self.index.saturating_sub(1),
            ZoomCommand::Out => (self.index + 1).min(WINDOWS.len() - 1),
            ZoomCommand::Auto => INITIAL,
        };
    }

    /// Enlarges an automatic window, which never shrinks, so that it does not go back and forth.
    pub fn grow_for_interval(&mut self, interval: Ms) {
        let span = interval.saturating_mul(MIN_READINGS);
        while !self.is_chosen && self.length() < span && self.index + 1 < WINDOWS.len() {
            self.index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Ms = 1000;
    const MINUTE: Ms = 60 * SECOND;

    #[test]
    fn the_window_grows_with_the_interval_until_one_is_chosen() {
        let mut window = ZoomLevel::new();
        window.grow_for_interval(SECOND);
        assert_eq!(window.length(), MINUTE);
        window.grow_for_interval(MINUTE);
        assert_eq!(window.length(), 60 * MINUTE);
        window.grow_for_interval(SECOND);
        assert_eq!(window.length(), 60 * MINUTE);
        window.zoom(ZoomCommand::In);
        window.grow_for_interval(MINUTE);
        assert_eq!(window.length(), 15 * MINUTE);
        window.zoom(ZoomCommand::Auto);
        assert_eq!(window.length(), MINUTE);
        window.grow_for_interval(i64::MAX);
        assert_eq!(window.length(), MAX_WINDOW);
    }

    #[test]
    fn an_automatic_window_begins_with_the_span_of_the_data() {
        let mut window = ZoomLevel::new();
        let span = |window: &ZoomLevel, now| window.span(Some(100_000), now);
        assert_eq!(window.span(None, 0), MINUTE);
        assert_eq!(span(&window, 100_000), MIN_SPAN);
        assert_eq!(span(&window, 112_345), 13 * SECOND);
        assert_eq!(span(&window, 900_000), MINUTE);
        // A slow series fills the width as well.
        window.grow_for_interval(MINUTE);
        assert_eq!(span(&window, 100_000 + 7 * MINUTE), 7 * MINUTE);
        window.zoom(ZoomCommand::In);
        assert_eq!(span(&window, 100_000 + 7 * MINUTE), 15 * MINUTE);
    }

    #[test]
    fn there_is_a_shortest_and_a_longest_window() {
        let mut window = ZoomLevel::new();
        for _ in 0..20 {
            window.zoom(ZoomCommand::Out);
        }
        assert_eq!(window.length(), MAX_WINDOW);
        for _ in 0..20 {
            window.zoom(ZoomCommand::In);
        }
        assert_eq!(window.length(), 10 * SECOND);
    }
}
