//! The connection's life and what may change it.

use iot_pubsub::common::connection::backoff::{Backoff, Policy};
use iot_pubsub::common::connection::state::{
    AttemptSettings, ConnectionAction, ConnectionState, ConnectionStateMachine, FiniteOrEndless,
};
use iot_pubsub::common::fault::{Exit, Fault};

use super::{SECOND, origin, secs};

fn connection(run: FiniteOrEndless) -> ConnectionStateMachine {
    let policy = Policy::new(SECOND, secs(32), secs(20), 0.0).unwrap();
    let settings = AttemptSettings {
        host: "h:1".into(),
        run,
        connect_timeout: secs(10),
        interval: secs(0),
    };
    ConnectionStateMachine::new(settings, Backoff::new(policy))
}

fn passing() -> Fault {
    Fault::passing(Exit::Unavailable, "gone")
}

#[test]
fn keep_after_a_user_stop_only_a_new_start_changes_anything() {
    let now = origin();
    let mut connection = connection(FiniteOrEndless::Endless);
    assert_eq!(connection.state(), ConnectionState::Idle);
    connection.start(now);
    assert!(connection.handle_connected(1, now));
    assert_eq!(connection.stop(), [ConnectionAction::Disconnect]);
    assert_eq!(connection.generation(), 1);
    assert!(connection.handle_ended(1, passing(), now, 0.0).is_empty());
    assert!(!connection.handle_connected(1, now));
    assert!(connection.handle_timeout(now + secs(99), 0.0).is_empty());
    assert_eq!(connection.state(), ConnectionState::Stopped);
    assert_eq!(connection.start(now).len(), 1);
    assert_eq!(connection.generation(), 2);
}

#[test]
fn better_a_refused_connack_starts_no_stable_time_and_the_delays_go_on() {
    let mut now = origin();
    let mut connection = connection(FiniteOrEndless::Endless);
    connection.start(now);
    for expected in [1, 2, 4, 8] {
        now += secs(30);
        let generation = connection.generation();
        let refused = Fault::permanent(Exit::Refused, "not authorized");
        let actions = connection.handle_ended(generation, refused, now, 0.0);
        let delay = secs(expected);
        assert!(matches!(actions[..], [ConnectionAction::Retry { delay: d, .. }] if d == delay));
        connection.handle_timeout(now + delay, 0.0);
    }
}

#[test]
fn better_the_first_connect_is_retried_but_not_what_no_retry_can_cure() {
    let now = origin();
    let mut finite = connection(FiniteOrEndless::Finite);
    finite.start(now);
    let actions = finite.handle_ended(1, passing(), now, 0.0);
    assert!(matches!(actions[..], [ConnectionAction::Retry { .. }]));
    finite.handle_timeout(now + SECOND, 0.0);
    let fault = Fault::permanent(Exit::Config, "not trusted");
    let actions = finite.handle_ended(2, fault.clone(), now + SECOND, 0.0);
    assert_eq!(actions, [ConnectionAction::GiveUp(fault)]);
    assert_eq!(finite.state(), ConnectionState::Stopped);
}

#[test]
fn better_a_late_event_of_an_earlier_connection_changes_nothing() {
    let now = origin();
    let mut connection = connection(FiniteOrEndless::Endless);
    connection.start(now);
    connection.handle_timeout(now + secs(10), 0.0);
    connection.handle_timeout(now + secs(11), 0.0);
    assert_eq!(connection.generation(), 2);
    assert!(!connection.handle_connected(1, now + secs(11)));
    assert!(
        connection
            .handle_ended(1, passing(), now + secs(11), 0.0)
            .is_empty()
    );
    assert!(connection.handle_connected(2, now + secs(12)));
    assert!(
        connection
            .handle_ended(1, passing(), now + secs(12), 0.0)
            .is_empty()
    );
    assert_eq!(
        connection.state(),
        ConnectionState::Online {
            since: now + secs(12)
        }
    );
}

#[test]
fn keep_an_attempt_without_an_answer_ends_at_the_connect_timeout() {
    let now = origin();
    let mut connection = connection(FiniteOrEndless::Finite);
    connection.start(now);
    assert!(connection.handle_timeout(now + secs(9), 0.0).is_empty());
    let actions = connection.handle_timeout(now + secs(10), 0.0);
    assert!(matches!(
        &actions[..],
        [ConnectionAction::Abandon, ConnectionAction::Retry { fault, .. }]
            if fault.message.contains("connect-timeout")
    ));
}

#[test]
fn better_a_stop_ends_the_wait_at_once() {
    let now = origin();
    let mut connection = connection(FiniteOrEndless::Endless);
    connection.start(now);
    connection.handle_ended(1, passing(), now, 0.0);
    assert_eq!(connection.wake_at(), Some(now + SECOND));
    assert!(connection.stop().is_empty());
    assert_eq!(connection.wake_at(), None);
}
