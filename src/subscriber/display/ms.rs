//! Times in milliseconds since the start of the run. PURE.

use std::time::Duration;

pub type Ms = i64;

/// In seconds, negative.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of some days")]
pub fn seconds_from_now(at: Ms, now: Ms) -> f64 {
    (at - now) as f64 / 1e3
}

pub fn ms_to_duration(ms: Ms) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

pub fn duration_to_ms(time: Duration) -> Ms {
    Ms::try_from(time.as_millis()).unwrap_or(Ms::MAX)
}
