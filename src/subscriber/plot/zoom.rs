//! The length of the time axis. PURE.

pub(super) type Ms = i64;

pub(super) const MAX_WINDOW: Ms = 24 * 3600 * 1000;

const WINDOWS: [Ms; 8] = [10, 30, 60, 300, 900, 3600, 6 * 3600, MAX_WINDOW / 1000];

const INITIAL: usize = 2;

const MIN_READINGS: Ms = 30;

/// In seconds, negative.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of some days")]
pub(super) fn seconds_from_now(at: Ms, now: Ms) -> f64 {
    (at - now) as f64 / 1e3
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoomCommand {
    In,
    Out,
    Auto,
}

#[derive(Debug)]
pub(super) struct ZoomLevel {
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

    pub(super) fn span(&self) -> Ms {
        WINDOWS[self.index] * 1000
    }

    pub(super) fn zoom(&mut self, zoom: ZoomCommand) {
        self.is_chosen = zoom != ZoomCommand::Auto;
        self.index = match zoom {
            ZoomCommand::In => self.index.saturating_sub(1),
            ZoomCommand::Out => (self.index + 1).min(WINDOWS.len() - 1),
            ZoomCommand::Auto => INITIAL,
        };
    }

    /// Enlarges an automatic window, which never shrinks, so that it does not go back and forth.
    pub(super) fn grow_for_interval(&mut self, interval: Ms) {
        let span = interval.saturating_mul(MIN_READINGS);
        while !self.is_chosen && self.span() < span && self.index + 1 < WINDOWS.len() {
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
        assert_eq!(window.span(), MINUTE);
        window.grow_for_interval(MINUTE);
        assert_eq!(window.span(), 60 * MINUTE);
        window.grow_for_interval(SECOND);
        assert_eq!(window.span(), 60 * MINUTE);
        window.zoom(ZoomCommand::In);
        window.grow_for_interval(MINUTE);
        assert_eq!(window.span(), 15 * MINUTE);
        window.zoom(ZoomCommand::Auto);
        assert_eq!(window.span(), MINUTE);
        window.grow_for_interval(i64::MAX);
        assert_eq!(window.span(), MAX_WINDOW);
    }

    #[test]
    fn there_is_a_shortest_and_a_longest_window() {
        let mut window = ZoomLevel::new();
        for _ in 0..20 {
            window.zoom(ZoomCommand::Out);
        }
        assert_eq!(window.span(), MAX_WINDOW);
        for _ in 0..20 {
            window.zoom(ZoomCommand::In);
        }
        assert_eq!(window.span(), 10 * SECOND);
    }
}
