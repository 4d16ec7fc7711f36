//! Lines of standard input, as far as they are asked for.

use std::io::{BufRead, BufReader, Read};
use std::mem;
use std::sync::mpsc::Receiver;

use super::{Demand, Emit, Input, Piece};

/// How much of standard input is read at once.
const BUFFER: usize = 64 << 10;

/// Lines that travel in one piece.
#[derive(Default)]
struct Together {
    count: usize,
    bytes: Vec<u8>,
}

impl Together {
    /// The piece, if there is any line in it; `last` is the number of the last one.
    fn take(&mut self, last: u64) -> Option<Input> {
        let Together { count, bytes } = mem::take(self);
        let first = (last + 1).saturating_sub(count as u64);
        (count > 0).then_some(Input::Piece(Piece::Lines {
            first,
            count,
            bytes,
        }))
    }
}

/// Reads to the end, or until nobody listens any more.
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
        let mut inputs = Vec::new();
        let mut lines = Together::default();
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
            credit.take(Demand {
                messages: 1,
                bytes: (lines.bytes.len() - before) as u64,
            });
            let last = matches!(other, Some(Input::End | Input::Broken(_)));
            if let Some(other) = other {
                inputs.extend(lines.take(line - 1));
                inputs.push(other);
            } else if !together {
                let payload = mem::take(&mut lines.bytes);
                inputs.push(Input::Piece(Piece::Message { line, payload }));
            }
            if last {
                emit(inputs);
                return;
            }
            // What is complete goes along; what would have to be waited for does not.
            if credit.is_spent() || !reader.buffer().contains(&b'\n') {
                break;
            }
        }
        inputs.extend(lines.take(line));
        if !emit(inputs) {
            return;
        }
    }
}

/// Puts the next line behind `bytes`, without its newline; what comes in its place, if
/// there is none or it is too long.
fn read_line(
    reader: &mut impl BufRead,
    max: usize,
    line: u64,
    bytes: &mut Vec<u8>,
) -> Option<Input> {
    let before = bytes.len();
    let limit = max as u64 + 1;
    let read = reader.by_ref().take(limit).read_until(b'\n', bytes);
    let ended = bytes.len() > before && bytes.last() == Some(&b'\n');
    let other = match read {
        Ok(0) => Input::End,
        Ok(_) if ended => {
            bytes.pop();
            return None;
        }
        Ok(read) if read > max => match reader.skip_until(b'\n') {
            Ok(_) => Input::TooLong { line },
            Err(error) => Input::Broken(error),
        },
        Ok(_) => return None,
        Err(error) => Input::Broken(error),
    };
    bytes.truncate(before);
    Some(other)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// What comes of `input` if so many lines at once are asked for, to the end.
    fn inputs(input: &'static [u8], max: usize, together: bool, at_once: usize) -> Vec<String> {
        let (ask, demand) = mpsc::channel();
        let want = move || {
            ask.send(Demand {
                messages: at_once,
                bytes: u64::MAX,
            })
        };
        want().unwrap();
        let (told, seen) = mpsc::channel();
        read(input, max, together, &demand, move |inputs| {
            for input in inputs {
                told.send(match input {
                    Input::Piece(Piece::Message { line, payload }) => {
                        format!("{line} {}", payload.escape_ascii())
                    }
                    Input::Piece(Piece::Lines {
                        first,
                        count,
                        bytes,
                    }) => format!("{first}+{count} {}", bytes.escape_ascii()),
                    Input::TooLong { line } => format!("{line} too long"),
                    Input::End => "end".into(),
                    other => panic!("{other:?}"),
                })
                .unwrap();
            }
            want().is_ok()
        });
        seen.iter().collect()
    }

    #[test]
    fn lines_travel_together_as_far_as_they_are_at_hand_and_asked_for() {
        let input = b"a\n\n\0\xff\r\nfour!\nb\nc";
        assert_eq!(
            inputs(input, 4, true, 100),
            [
                r"1+3 a\n\n\x00\xff\r\n",
                "4 too long",
                r"5+1 b\n",
                r"6+1 c\n",
                "end"
            ]
        );
        assert_eq!(
            inputs(b"a\nb\nc\nd\n", 4, true, 3),
            [r"1+3 a\nb\nc\n", r"4+1 d\n", "end"]
        );
        assert_eq!(
            inputs(input, 4, false, 100)[..4],
            ["1 a", "2 ", r"3 \x00\xff\r", "4 too long"]
        );
        assert_eq!(inputs(b"", 4, true, 1), ["end"]);
    }
}
