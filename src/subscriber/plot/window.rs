//! How far back the chart looks. PURE.

use super::timing::Ms;

const SECOND: Ms = 1000;
const MINUTE: Ms = 60 * SECOND;
const HOUR: Ms = 60 * MINUTE;

/// The longest window.
pub(super) const LONGEST: Ms = 24 * HOUR;

/// The windows there are.
const STEPS: [Ms; 8] = [
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    HOUR,
    6 * HOUR,
    LONGEST,
];

/// The one to begin with.
const FIRST: usize = 2;

/// So many readings are to be seen, unless somebody has chosen a window.
const ENOUGH: Ms = 30;

/// What a key asks of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zoom {
    /// A shorter one.
    In,
    /// A longer one.
    Out,
    /// The one that fits the readings.
    Auto,
}

#[derive(Debug)]
pub(super) struct Window {
    step: usize,
    chosen: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            step: FIRST,
            chosen: false,
        }
    }

    /// How long it is, in milliseconds.
    pub(super) fn span(&self) -> Ms {
        STEPS.get(self.step).copied().unwrap_or(LONGEST)
    }

    /// A key was pressed.
    pub(super) fn zoom(&mut self, zoom: Zoom) {
        self.chosen = zoom != Zoom::Auto;
        self.step = match zoom {
            Zoom::In => self.step.saturating_sub(1),
            Zoom::Out => (self.step + 1).min(STEPS.len() - 1),
            Zoom::Auto => FIRST,
        };
    }

    /// Readings come in this interval. A window that nobody has chosen grows with it, and
    /// does not shrink, so that it does not waver.
    pub(super) fn suit(&mut self, interval: Ms) {
        let enough = interval.saturating_mul(ENOUGH);
        while !self.chosen && self.span() < enough && self.step + 1 < STEPS.len() {
            self.step += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_the_interval_until_somebody_chooses() {
        let mut window = Window::new();
        window.suit(SECOND);
        assert_eq!(window.span(), MINUTE);
        window.suit(MINUTE);
        assert_eq!(window.span(), HOUR);
        window.suit(SECOND);
        assert_eq!(window.span(), HOUR);
        window.zoom(Zoom::In);
        window.suit(MINUTE);
        assert_eq!(window.span(), 15 * MINUTE);
        window.zoom(Zoom::Auto);
        assert_eq!(window.span(), MINUTE);
        window.suit(i64::MAX);
        assert_eq!(window.span(), LONGEST);
    }

    #[test]
    fn there_is_a_shortest_and_a_longest_one() {
        let mut window = Window::new();
        for _ in 0..20 {
            window.zoom(Zoom::Out);
        }
        assert_eq!(window.span(), LONGEST);
        for _ in 0..20 {
            window.zoom(Zoom::In);
        }
        assert_eq!(window.span(), 10 * SECOND);
    }
}
