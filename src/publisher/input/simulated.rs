//! A simulated temperature sensor: the source when no other is given.

use std::time::SystemTime;

use serde_json::json;

use crate::common::runtime::random;

/// Gives a random walk around [`MEAN_CELSIUS`].
#[derive(Debug)]
pub(super) struct SimulatedSensor {
    celsius: f64,
    pub(super) sequence: u64,
    random: fastrand::Rng,
}

const MEAN_CELSIUS: f64 = 21.5;

impl Default for SimulatedSensor {
    fn default() -> Self {
        Self {
            celsius: MEAN_CELSIUS,
            sequence: 0,
            random: random::generator(),
        }
    }
}

impl SimulatedSensor {
    /// The next reading as JSON: its number, degrees Celsius with two decimals, and the time in UTC.
    pub(super) fn read(&mut self, time: SystemTime) -> Vec<u8> {
        self.sequence += 1;
        let step = self.random.f64() - 0.5;
        self.celsius += 0.3 * step + 0.05 * (MEAN_CELSIUS - self.celsius);
        let reading = json!({
            "sequence": self.sequence,
            "temperature": (self.celsius * 100.0).round() / 100.0,
            "timestamp": humantime::format_rfc3339_millis(time).to_string(),
        });
        reading.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_reading_is_json_with_number_temperature_and_time() {
        let mut sensor = SimulatedSensor::default();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_846_400);
        for sequence in 1..=1_000u64 {
            let json: serde_json::Value = serde_json::from_slice(&sensor.read(time)).unwrap();
            assert_eq!(json["sequence"], sequence);
            assert_eq!(json["timestamp"], "2026-01-31T08:00:00.000Z");
            let celsius = json["temperature"].as_f64().unwrap();
            assert!((15.0..28.0).contains(&celsius), "{celsius}");
        }
    }
}
