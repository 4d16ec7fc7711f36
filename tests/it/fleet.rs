//! Many devices that lose their broker together, in simulated time (`examples/fleet.rs`): what
//! the backoff and its jitter are for.

#[path = "../../examples/fleet/simulation.rs"]
mod simulation;

use std::time::Duration;

use simulation::{Course, Denial, Scene, play};

const A_FLEET: Scene = Scene {
    devices: 2_000,
    outage: Duration::from_secs(60),
    rate: 100,
    denial: Denial::Refused,
    base: Duration::from_secs(1),
    max: Duration::from_secs(32),
    jitter: 0.0,
};

fn course(jitter: f64, denial: Denial) -> Course {
    let scene = Scene {
        denial,
        jitter,
        ..A_FLEET
    };
    play(scene).unwrap()
}

#[test]
fn without_jitter_all_devices_come_at_once_with_it_they_spread() {
    for denial in [Denial::Refused, Denial::Silent] {
        let [bare, little, default] = [0.0, 0.2, 0.5].map(|jitter| course(jitter, denial));
        let peaks = [&bare, &little, &default].map(|course| course.peak(A_FLEET.outage));
        assert!(peaks[0] > A_FLEET.devices / 2, "{denial:?}: {peaks:?}");
        assert!(peaks[1] < peaks[0] / 2, "{denial:?}: {peaks:?}");
        assert!(peaks[2] < peaks[1] / 2, "{denial:?}: {peaks:?}");
        let back = [&bare, &little, &default].map(|course| course.back_by(99, A_FLEET.devices));
        assert!(back[1] < back[0] / 2, "{denial:?}: {back:?}");
        assert!(back[2] < back[1], "{denial:?}: {back:?}");
        assert!(little.turned_away < bare.turned_away / 2);
        assert!(default.turned_away < little.turned_away / 2);
    }
}

#[test]
fn an_outage_of_a_minute_is_worth_five_attempts_a_device() {
    // After 1, 2, 4, 8 and 16 seconds; the sixth comes when the broker is back.
    let refused = course(0.0, Denial::Refused);
    assert_eq!(refused.in_vain, 5 * A_FLEET.devices);
    // Each takes the connect timeout as well: at 1, 13, 27 and 45 seconds.
    let silent = course(0.0, Denial::Silent);
    assert_eq!(silent.in_vain, 4 * A_FLEET.devices);
}

#[test]
fn all_devices_come_back_and_the_broker_keeps_its_limit() {
    for jitter in [0.0, 0.5, 1.0] {
        let course = course(jitter, Denial::Refused);
        assert_eq!(course.back.len(), A_FLEET.devices as usize);
        assert!(course.back.is_sorted());
        let sum = |seconds: &[u32]| seconds.iter().sum::<u32>();
        assert_eq!(sum(&course.accepted), A_FLEET.devices);
        let others = course.in_vain + course.turned_away;
        assert_eq!(sum(&course.attempts), A_FLEET.devices + others);
        // A second's worth saved up, and what the second itself brings.
        assert!(course.accepted.iter().all(|&n| n <= 2 * A_FLEET.rate));
        assert_eq!(sum(&course.accepted[..60]), 0);
    }
}

#[test]
fn the_same_scene_takes_the_same_course() {
    let jitter = 0.5;
    assert_eq!(
        course(jitter, Denial::Silent),
        course(jitter, Denial::Silent)
    );
}
