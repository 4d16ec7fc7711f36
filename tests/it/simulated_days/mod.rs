//! Days of simulated time in the pure core: connection, outbox, queue and pacing wired as
//! the event loop wires them, with a link that flaps, a queue that fills and a backlog that
//! drains against arrivals. After every step the invariants are checked; nothing sleeps.

mod world;

use std::time::Duration;

use iot_pubsub::publisher::queue::limits::DropBehavior;
use proptest::prelude::*;

use world::{DAY, Simulation, World};

fn worlds() -> impl Strategy<Value = World> {
    let behavior = prop_oneof![
        Just(DropBehavior::Newest),
        Just(DropBehavior::Oldest),
        Just(DropBehavior::Block),
    ];
    let drain = prop_oneof![
        Just(f64::INFINITY),
        (1u32..50).prop_map(|r| f64::from(r) / 5.0),
    ];
    let capacity = prop_oneof![Just(-1i64), Just(0), 1i64..50];
    (
        any::<u64>(),
        capacity,
        behavior,
        drain,
        1usize..120,
        1usize..120,
        100u64..20_000,
        1u64..600,
        1u64..600,
        1u64..8_000,
    )
        .prop_map(
            |(
                seed,
                capacity,
                behavior,
                drain,
                window,
                receive_maximum,
                interval,
                up,
                down,
                latency,
            )| World {
                seed,
                capacity,
                behavior,
                drain,
                window,
                receive_maximum,
                interval: Duration::from_millis(interval),
                up: Duration::from_secs(up),
                down: Duration::from_secs(down),
                latency: Duration::from_millis(latency),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_world_keeps_the_invariants_for_an_hour_and_delivers_in_the_end(world in worlds()) {
        let mut simulation = Simulation::new(world);
        simulation.run(DAY / 24);
        simulation.settle_down();
    }
}

fn a_world() -> World {
    World {
        seed: 42,
        capacity: 20,
        behavior: DropBehavior::Newest,
        drain: 2.0,
        window: 100,
        receive_maximum: 65_535,
        interval: Duration::from_secs(1),
        up: Duration::from_secs(600),
        down: Duration::from_secs(60),
        latency: Duration::from_millis(200),
    }
}

#[test]
fn a_day_on_a_flapping_link() {
    let mut simulation = Simulation::new(World {
        up: Duration::from_secs(6),
        down: Duration::from_secs(6),
        ..a_world()
    });
    simulation.run(DAY);
    assert!(simulation.readings > 86_000);
    assert!(
        simulation.connection.reconnect_count() > 500,
        "{}",
        simulation.connection.reconnect_count()
    );
    simulation.settle_down();
}

#[test]
fn a_day_with_a_full_queue_that_drops_the_oldest() {
    let world = World {
        capacity: 5,
        behavior: DropBehavior::Oldest,
        down: Duration::from_secs(300),
        ..a_world()
    };
    let mut simulation = Simulation::new(world);
    simulation.run(DAY);
    assert!(simulation.dropped.len() > 1_000);
    simulation.settle_down();
    assert_eq!(
        simulation.settled.len() + simulation.dropped.len(),
        simulation.accepted.len()
    );
}

#[test]
fn a_day_of_draining_slower_than_readings_arrive_still_catches_up() {
    let world = World {
        capacity: -1,
        interval: Duration::from_millis(250),
        up: Duration::from_secs(7_200),
        down: Duration::from_secs(120),
        ..a_world()
    };
    let mut simulation = Simulation::new(world);
    simulation.run(DAY);
    assert!(simulation.dropped.is_empty());
    // Two a second out against four a second in would leave a hundred thousand waiting.
    assert!(
        simulation.outbox.count_unfinished() < 2_000,
        "{}",
        simulation.outbox.count_unfinished()
    );
    simulation.settle_down();
}

#[test]
fn a_day_of_lost_acknowledgements_ends_connections_and_loses_nothing() {
    let world = World {
        capacity: -1,
        latency: Duration::from_secs(6),
        drain: f64::INFINITY,
        ..a_world()
    };
    let mut simulation = Simulation::new(world);
    simulation.run(DAY);
    assert!(simulation.connection.reconnect_count() > 100);
    simulation.settle_down();
    assert_eq!(simulation.settled.len(), simulation.accepted.len());
}
