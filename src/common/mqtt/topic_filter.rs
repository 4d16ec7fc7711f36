//! Whether a topic matches a topic filter (MQTT 5.0 section 4.7). PURE.

/// The wildcards `+` and `#` do not match the first level of a topic that begins with `$` (MQTT-4.7.2-1). `a/#` also
/// matches `a`.
pub fn topic_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_match_as_the_specification_s_examples_say() {
        for (filter, topic, matches) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/broker/uptime", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/broker/uptime", true),
            ("a", "A", false),
        ] {
            assert_eq!(topic_matches(filter, topic), matches, "{filter} {topic}");
        }
    }

    /// The same by recursion on the levels, as the specification puts it.
    fn reference(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => reference(filter, topic),
            ([wanted, filter @ ..], [level, topic @ ..]) if wanted == level => {
                reference(filter, topic)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_filter_matches_level_by_level(
            filter in proptest::collection::vec(prop_oneof!["[ab]?", Just("+".to_owned())], 1..5),
            is_open in any::<bool>(),
            topic in proptest::collection::vec("[ab]?", 1..5),
        ) {
            let mut filter: Vec<&str> = filter.iter().map(String::as_str).collect();
            if is_open {
                filter.push("#");
            }
            let topic: Vec<&str> = topic.iter().map(String::as_str).collect();
            prop_assert_eq!(topic_matches(&filter.join("/"), &topic.join("/")), reference(&filter, &topic));
        }
    }
}
