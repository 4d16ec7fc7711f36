//! The pure core of the durable queue over a simulated disk: several publishers that send,
//! add, crash, end and take over at any step, with a disk that fills and a link that flaps.
//! After every step the promise of docs/durability.md is checked; nothing sleeps.

mod disk;
mod process;
mod simulation;

use std::time::Duration;

use proptest::prelude::*;

use process::WINDOW;
use simulation::{Simulation, World};

fn run(world: World, steps: usize) -> Simulation {
    let mut simulation = Simulation::new(world);
    for _ in 0..steps {
        simulation.step();
    }
    simulation.settle_down();
    simulation.check();
    simulation
}

fn worlds() -> impl Strategy<Value = World> {
    (any::<u64>(), 1usize..5, 20usize..2_000, any::<bool>()).prop_map(
        |(seed, processes, crash, fills)| World {
            seed,
            processes,
            crash,
            fills,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_to_publishers_and_disk_nothing_accepted_is_lost(world in worlds()) {
        run(world, 2_000);
    }
}

/// In this world a publisher used to connect before it knew that it drains, and sent a message without a number.
#[test]
fn a_publisher_that_takes_over_sends_only_messages_with_numbers() {
    let world = World {
        seed: 3_730_637_981_469_056_070,
        processes: 4,
        crash: 20,
        fills: true,
    };
    run(world, 2_000);
}

#[test]
fn however_slow_the_disk_a_crash_repeats_no_more_than_a_window() {
    let mut simulation = Simulation::new(World {
        seed: 1,
        processes: 1,
        crash: usize::MAX,
        fills: false,
    });
    simulation.start_one();
    for number in 1..=50 {
        simulation.giver.insert(number, 1);
        assert!(simulation.processes[0].offer(number, simulation.now));
    }
    simulation.end(0);
    simulation.start_one();
    simulation.processes[0].connect(simulation.now);
    simulation.turn(0);
    // It reads what waits, and from then on the disk does nothing any more.
    assert!(simulation.processes[0].store_works(&mut simulation.disk));
    assert!(simulation.processes[0].handle_result(simulation.now));
    for _ in 0..200 {
        simulation.now += Duration::from_millis(20);
        simulation.turn(0);
        simulation.answer(0);
    }
    assert_eq!(simulation.arrivals, WINDOW, "sent and not deleted");
    simulation.crash(0);
    simulation.settle_down();
    simulation.check();
}

#[test]
fn a_long_life_of_one_queue_with_all_that_may_happen() {
    let simulation = run(
        World {
            seed: 7,
            processes: 3,
            crash: 300,
            fills: true,
        },
        40_000,
    );
    assert!(simulation.crashes > 20, "{}", simulation.crashes);
    assert!(
        simulation.accepted.len() > 1_500,
        "{}",
        simulation.accepted.len()
    );
    assert!(simulation.disk.dead.len() > 10);
}
