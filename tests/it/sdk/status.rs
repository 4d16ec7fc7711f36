//! The connection's life and what may change it.

use iot_pubsub::common::connection::backoff::{Backoff, Policy};
use iot_pubsub::common::connection::state::{Action, Connection, Run, State, Terms};
use iot_pubsub::common::fault::{Exit, Fault};

use super::{SECOND, origin, secs};

fn connection(run: Run) -> Connection {
    let policy = Policy::new(SECOND, secs(32), secs(20), 0.0).unwrap();
    let terms = Terms {
        host: "h:1".into(),
        run,
        connect_timeout: secs(10),
        interval: secs(0),
    };
    Connection::new(terms, Backoff::new(policy))
}

fn passing() -> Fault {
    Fault::passing(Exit::Unavailable, "gone")
}

#[test]
fn keep_after_a_user_stop_only_a_new_start_changes_anything() {
    let now = origin();
    let mut connection = connection(Run::Endless);
    assert_eq!(connection.state(), State::Idle);
    connection.start(now);
    assert!(connection.accepted(1, now));
    assert_eq!(connection.stop(), [Action::Disconnect { generation: 1 }]);
    assert!(connection.ended(1, passing(), now, 0.0).is_empty());
    assert!(!connection.accepted(1, now));
    assert!(connection.tick(now + secs(99), 0.0).is_empty());
    assert_eq!(connection.state(), State::Stopped);
    assert_eq!(connection.start(now).len(), 1);
    assert_eq!(connection.generation(), 2);
}

#[test]
fn better_a_refused_connack_starts_no_stable_time_and_the_delays_go_on() {
    let mut now = origin();
    let mut connection = connection(Run::Endless);
    connection.start(now);
    for expected in [1, 2, 4, 8] {
        now += secs(30);
        let generation = connection.generation();
        let refused = Fault::permanent(Exit::Refused, "not authorized");
        let actions = connection.ended(generation, refused, now, 0.0);
        let delay = secs(expected);
        assert!(matches!(actions[..], [Action::Retry { delay: d, .. }] if d == delay));
        connection.tick(now + delay, 0.0);
    }
}

#[test]
fn better_the_first_connect_is_retried_but_not_what_no_retry_can_cure() {
    let now = origin();
    let mut finite = connection(Run::Finite);
    finite.start(now);
    let actions = finite.ended(1, passing(), now, 0.0);
    assert!(matches!(actions[..], [Action::Retry { .. }]));
    finite.tick(now + SECOND, 0.0);
    let fault = Fault::permanent(Exit::Config, "not trusted");
    let actions = finite.ended(2, fault.clone(), now + SECOND, 0.0);
    assert_eq!(actions, [Action::GiveUp { fault }]);
    assert_eq!(finite.state(), State::Stopped);
}

#[test]
fn better_a_late_event_of_an_earlier_connection_changes_nothing() {
    let now = origin();
    let mut connection = connection(Run::Endless);
    connection.start(now);
    connection.tick(now + secs(10), 0.0);
    connection.tick(now + secs(11), 0.0);
    assert_eq!(connection.generation(), 2);
    assert!(!connection.accepted(1, now + secs(11)));
    assert!(
        connection
            .ended(1, passing(), now + secs(11), 0.0)
            .is_empty()
    );
    assert!(connection.accepted(2, now + secs(12)));
    assert!(
        connection
            .ended(1, passing(), now + secs(12), 0.0)
            .is_empty()
    );
    assert_eq!(
        connection.state(),
        State::Online {
            since: now + secs(12)
        }
    );
}

#[test]
fn keep_an_attempt_without_an_answer_ends_at_the_connect_timeout() {
    let now = origin();
    let mut connection = connection(Run::Finite);
    connection.start(now);
    assert!(connection.tick(now + secs(9), 0.0).is_empty());
    let actions = connection.tick(now + secs(10), 0.0);
    assert!(matches!(
        &actions[..],
        [Action::Abandon { generation: 1 }, Action::Retry { fault, .. }]
            if fault.message.contains("connect-timeout")
    ));
}

#[test]
fn better_a_stop_ends_the_wait_at_once() {
    let now = origin();
    let mut connection = connection(Run::Endless);
    connection.start(now);
    connection.ended(1, passing(), now, 0.0);
    assert_eq!(connection.wake_at(), Some(now + SECOND));
    assert!(connection.stop().is_empty());
    assert_eq!(connection.wake_at(), None);
}
