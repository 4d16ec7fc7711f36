//! The data of the table: the latest reading of each topic. PURE. Its memory is bounded.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;

use super::table_content::TableContent;
use super::topic_reading::{TopicReading, format_topic};
use crate::common::escape::escape;
use crate::subscriber::display::ms::Ms;
use crate::subscriber::display::text_format::{common_levels, width};

pub const MAX_TOPICS: usize = 10_000;

/// Of all topics together; one may have 64 KiB.
const MAX_TOPIC_BYTES: usize = 4 << 20;

/// Topics that are counted though the table has no space for them.
pub const MAX_UNLISTED: usize = 10_000;

/// In bytes. A longer topic is cut anyway.
const MAX_WIDTH: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrollCommand {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

#[derive(Debug)]
pub struct TableData {
    headings: Vec<String>,
    topics: BTreeMap<String, TopicReading>,
    topic_bytes: usize,
    topic_width: usize,
    unlisted: HashSet<u64>,
    /// The topic of the first row that is shown, so that a new topic above it moves nothing. None at the top.
    first: Option<String>,
    page: usize,
}

impl TableData {
    pub fn new(headings: Vec<String>) -> Self {
        Self {
            headings,
            topics: BTreeMap::new(),
            topic_bytes: 0,
            topic_width: 0,
            unlisted: HashSet::new(),
            first: None,
            page: 1,
        }
    }

    pub fn add(&mut self, topic: &str, values: &[Option<&[u8]>], delay: i64, now: Ms) {
        if let Some(reading) = self.topics.get_mut(topic) {
            return reading.update(values, delay, now);
        }
        let bytes = self.topic_bytes + topic.len();
        if self.topics.len() == MAX_TOPICS || bytes > MAX_TOPIC_BYTES {
            if self.unlisted.len() < MAX_UNLISTED {
                let mut hasher = DefaultHasher::new();
                topic.hash(&mut hasher);
                self.unlisted.insert(hasher.finish());
            }
            return;
        }
        self.topic_bytes = bytes;
        let begin = &topic.as_bytes()[..topic.len().min(MAX_WIDTH)];
        let wide = width(&escape(begin, &[]));
        self.topic_width = self.topic_width.max(wide);
        let mut reading = TopicReading::default();
        reading.update(values, delay, now);
        self.topics.insert(topic.to_owned(), reading);
    }

    pub fn scroll(&mut self, command: ScrollCommand) {
        let above = self.rows_above();
        let first = match command {
            ScrollCommand::Up => above.saturating_sub(1),
            ScrollCommand::Down => above + 1,
            ScrollCommand::PageUp => above.saturating_sub(self.page),
            ScrollCommand::PageDown => above + self.page,
            ScrollCommand::First => 0,
            ScrollCommand::Last => usize::MAX,
        };
        self.scroll_to(first);
    }

    /// `page`: how many rows are shown.
    pub fn content(&mut self, page: usize, now: Ms) -> TableContent {
        self.page = page.max(1);
        let above = self.rows_above();
        if above > self.last_first() {
            self.scroll_to(above);
        }
        let above = self.rows_above();
        let rows = self.topics.iter().skip(above).take(page);
        TableContent {
            headings: self.headings.clone(),
            rows: rows
                .map(|(topic, reading)| reading.row(topic, now))
                .collect(),
            above,
            topics: self.topics.len(),
            topic_width: self.topic_width,
            common_levels: self.common_levels(),
            unlisted: self.unlisted.len(),
        }
    }

    /// Of sorted topics the first and the last differ most.
    fn common_levels(&self) -> usize {
        let ends = [self.topics.keys().next(), self.topics.keys().next_back()];
        let ends = ends.map(|topic| topic.map(|topic| format_topic(topic)));
        common_levels(ends.iter().flatten().map(|topic| &**topic))
    }

    fn scroll_to(&mut self, first: usize) {
        let first = first.min(self.last_first());
        self.first = (first > 0)
            .then(|| self.topics.keys().nth(first).cloned())
            .flatten();
    }

    /// The last page is shown whole.
    fn last_first(&self) -> usize {
        self.topics.len().saturating_sub(self.page)
    }

    fn rows_above(&self) -> usize {
        let Some(first) = &self.first else { return 0 };
        let above = (Bound::Unbounded, Bound::Excluded(first.as_str()));
        self.topics.range::<str, _>(above).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(topics: &[&str]) -> TableData {
        let mut table = TableData::new(vec!["value".into()]);
        for topic in topics {
            add(&mut table, topic, b"1");
        }
        table
    }

    fn add(table: &mut TableData, topic: &str, value: &[u8]) {
        table.add(topic, &[Some(value)], 0, 0);
    }

    fn shown(table: &mut TableData, page: usize) -> String {
        let rows = table.content(page, 0).rows;
        rows.into_iter().map(|row| row.topic).collect()
    }

    #[test]
    fn topics_are_sorted_and_keep_their_latest_reading() {
        let mut table = table(&["b", "a", "c", "a"]);
        add(&mut table, "a", b"2");
        let content = table.content(10, 1000);
        let rows: Vec<_> = content
            .rows
            .iter()
            .map(|row| (&*row.topic, row.values[0].as_deref().unwrap(), row.readings))
            .collect();
        assert_eq!(rows, [("a", "2", 3), ("b", "1", 1), ("c", "1", 1)]);
        assert_eq!((content.topics, content.unlisted), (3, 0));
        assert_eq!(content.common_levels, 0);
    }

    #[test]
    fn levels_that_all_topics_have_in_common_do_not_depend_on_the_rows_shown() {
        let mut table = table(&["site/7/a", "site/7/b", "site/8/\u{7}"]);
        for page in 1..4 {
            assert_eq!(table.content(page, 0).common_levels, "site/".len());
        }
    }

    #[test]
    fn keys_scroll_and_never_beyond_the_last_page() {
        use ScrollCommand::{Down, First, Last, PageDown, PageUp, Up};
        let mut table = table(&["a", "b", "c", "d", "e", "f", "g"]);
        assert_eq!(shown(&mut table, 3), "abc");
        for (command, expected) in [
            (Down, "bcd"),
            (PageDown, "efg"),
            (Down, "efg"),
            (Up, "def"),
            (PageUp, "abc"),
            (Up, "abc"),
            (Last, "efg"),
            (First, "abc"),
        ] {
            table.scroll(command);
            assert_eq!(shown(&mut table, 3), expected, "{command:?}");
        }
    }

    #[test]
    fn a_new_topic_above_the_rows_moves_nothing() {
        let mut table = table(&["b", "c", "d", "e"]);
        shown(&mut table, 2);
        table.scroll(ScrollCommand::Down);
        add(&mut table, "a", b"1");
        assert_eq!(shown(&mut table, 2), "cd");
        // At the top it is shown.
        table.scroll(ScrollCommand::First);
        add(&mut table, "0", b"1");
        assert_eq!(shown(&mut table, 2), "0a");
    }

    #[test]
    fn a_larger_terminal_shows_the_rows_above_the_last_page() {
        let mut table = table(&["a", "b", "c", "d"]);
        shown(&mut table, 2);
        table.scroll(ScrollCommand::Last);
        assert_eq!(shown(&mut table, 2), "cd");
        assert_eq!(shown(&mut table, 3), "bcd");
        assert_eq!(shown(&mut table, 9), "abcd");
    }

    #[test]
    fn topics_beyond_the_limits_are_counted_and_those_known_are_kept_up_to_date() {
        let mut table = table(&[]);
        for n in 0..MAX_TOPICS + 50 {
            add(&mut table, &format!("{n:06}"), b"1");
        }
        add(&mut table, "000000", b"2");
        add(&mut table, "010049", b"2");
        let content = table.content(1, 0);
        assert_eq!((content.topics, content.unlisted), (MAX_TOPICS, 50));
        assert_eq!(content.rows[0].values, [Some("2".to_owned())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn memory_is_bounded_and_every_page_is_full(
            readings in proptest::collection::vec((0usize..20, 0usize..3, 0usize..2_000), 1..60),
            commands in proptest::collection::vec(0u8..6, 0..20), page in 0usize..30,
        ) {
            let mut table = table(&[]);
            for (topic, long, value) in readings {
                add(&mut table, &format!("{topic}{}", "x".repeat(long * 25_000)), &vec![b'v'; value]);
            }
            prop_assert!(table.topic_bytes <= MAX_TOPIC_BYTES);
            prop_assert_eq!(table.topic_bytes, table.topics.keys().map(String::len).sum::<usize>());
            for command in commands {
                use ScrollCommand::{Down, First, Last, PageDown, PageUp, Up};
                table.scroll([Up, Down, PageUp, PageDown, First, Last][usize::from(command)]);
                let content = table.content(page, 0);
                prop_assert_eq!(content.rows.len(), page.min(content.topics));
                prop_assert!(content.above + content.rows.len() <= content.topics.max(page));
            }
        }
    }
}
