//! Reads lines of standard input on request.

use std::io::{BufRead, BufReader, Read};
use std::mem;
use std::sync::mpsc::Receiver;

use super::event::{Demand, Emit, InputChunk, InputError, SourceEvent};

/// How much of standard input is read at once, in bytes.
const BUFFER: usize = 64 << 10;

#[derive(Default)]
struct LineAccumulator {
    count: usize,
    bytes: Vec<u8>,
}

impl LineAccumulator {
    /// `last` is the number of the last line.
    fn take_event(&mut self, last: u64) -> Option<SourceEvent> {
        let LineAccumulator { count, bytes } = mem::take(self);
        let first = (last + 1).saturating_sub(count as u64);
        (count > 0).then_some(SourceEvent::InputChunk(InputChunk::Lines {
            first,
            count,
            bytes,
        }))
    }
}

/// Reads to the end of `input`, or until the receiver of `demand` or `emit` is gone.
pub(super) fn read(
    input: impl Read,
    max: usize,
    together: bool,
    demand: &Receiver<Demand>,
    mut emit: impl Emit,
) {
    let mut reader = BufReader::with_capacity(BUFFER, input);
    let mut line = 0;
    let mut credit = Demand::default();
    loop {
        while credit.is_spent() {
            match demand.recv() {
                Ok(more) => credit.add(more),
                Err(_) => return,
            }
        }
        while let Ok(more) = demand.try_recv() {
            credit.add(more);
        }
        let mut events = Vec::new();
        let mut lines = LineAccumulator::default();
        loop {
            line += 1;
            let before = lines.bytes.len();
            let other = read_line(&mut reader, max, line, &mut lines.bytes);
            if together && other.is_none() {
                lines.bytes.push(b'\n');
                lines.count += 1;
                if lines.count == 1 {
                    lines.bytes.reserve(reader.buffer().len());
                }
            }
            credit.subtract(1, (lines.bytes.len() - before) as u64);
            let goes_on = matches!(
                other,
                None | Some(SourceEvent::Failed(InputError::LineTooLong { .. }))
            );
            if let Some(other) = other {
                events.extend(lines.take_event(line - 1));
                events.push(other);
            } else if !together {
                let payload = mem::take(&mut lines.bytes);
                events.push(SourceEvent::InputChunk(InputChunk::Message {
                    line,
                    payload,
                }));
            }
            if !goes_on {
                emit(events);
                return;
            }
            // Complete lines in the buffer are passed on together; no read waits for more of them.
            if credit.is_spent() || !reader.buffer().contains(&b'\n') {
                break;
            }
        }
        events.extend(lines.take_event(line));
        if !emit(events) {
            return;
        }
    }
}

/// Appends the next line to `bytes`, without its newline. If there is no line or it is too long,
/// `bytes` is unchanged and the event says which.
fn read_line(
    reader: &mut impl BufRead,
    max: usize,
    line: u64,
    bytes: &mut Vec<u8>,
) -> Option<SourceEvent> {
    let before = bytes.len();
    let limit = max as u64 + 1;
    let read = reader.by_ref().take(limit).read_until(b'\n', bytes);
    let ended = bytes.len() > before && bytes.last() == Some(&b'\n');
    let other = match read {
        Ok(0) => SourceEvent::End,
        Ok(_) if ended => {
            bytes.pop();
            return None;
        }
        Ok(read) if read > max => SourceEvent::Failed(match reader.skip_until(b'\n') {
            Ok(_) => InputError::LineTooLong { line },
            Err(error) => InputError::ReadFailed(error),
        }),
        Ok(_) => return None,
        Err(error) => SourceEvent::Failed(InputError::ReadFailed(error)),
    };
    bytes.truncate(before);
    Some(other)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn events(input: &'static [u8], max: usize, together: bool, at_once: usize) -> Vec<String> {
        let (ask, demand) = mpsc::channel();
        let (readings, bytes) = (at_once, u64::MAX);
        let want = move || ask.send(Demand { readings, bytes });
        want().unwrap();
        let (sender, received) = mpsc::channel();
        read(input, max, together, &demand, move |events| {
            for event in events {
                sender
                    .send(match event {
                        SourceEvent::InputChunk(InputChunk::Message { line, payload }) => {
                            format!("{line} {}", payload.escape_ascii())
                        }
                        SourceEvent::InputChunk(InputChunk::Lines {
                            first,
                            count,
                            bytes,
                        }) => format!("{first}+{count} {}", bytes.escape_ascii()),
                        SourceEvent::Failed(InputError::LineTooLong { line }) => {
                            format!("{line} too long")
                        }
                        SourceEvent::End => "end".into(),
                        other => panic!("{other:?}"),
                    })
                    .unwrap();
            }
            want().is_ok()
        });
        received.iter().collect()
    }

    #[test]
    fn lines_come_in_one_chunk_as_far_as_they_are_available_and_requested() {
        let input = b"a\n\n\0\xff\r\nfour!\nb\nc";
        let first = r"1+3 a\n\n\x00\xff\r\n";
        let all = [first, "4 too long", r"5+1 b\n", r"6+1 c\n", "end"];
        assert_eq!(events(input, 4, true, 100), all);
        let requested = [r"1+3 a\nb\nc\n", r"4+1 d\n", "end"];
        assert_eq!(events(b"a\nb\nc\nd\n", 4, true, 3), requested);
        let single = ["1 a", "2 ", r"3 \x00\xff\r", "4 too long"];
        assert_eq!(events(input, 4, false, 100)[..4], single);
        assert_eq!(events(b"", 4, true, 1), ["end"]);
    }
}
