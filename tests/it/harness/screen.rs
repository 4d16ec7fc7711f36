//! What `subscriber --plot` and `--table` show on a terminal, and keys typed there.

use std::{io::Write as _, num::NonZeroU16};

use nix::pty::Winsize;
use vt100::Parser;

use super::{
    Broker, Program, SOON,
    lines::Lines,
    peer,
    process::command,
    running::{Outcome, Running},
    wait_until,
};

/// Of a terminal that does not know its size.
const USUAL: (u16, u16) = (80, 24);

pub(super) fn window(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A subscriber to `site/#` that draws, in a terminal with colours and UTF-8.
pub(crate) fn drawing(broker: &Broker, flag: &str) -> Program {
    Program::subscriber()
        .to(broker)
        .args(["-t", "site/#", flag])
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
}

/// Until the broker has the subscription of [`drawing`].
pub(crate) fn wait_subscribed(broker: &Broker) {
    let subscribed = broker.log().wait(SOON, |line| line.contains("site/#"));
    assert!(subscribed.is_some());
}

pub(crate) fn publish(broker: &Broker, topic: &str, payload: &str) {
    assert!(peer::publish(broker, topic, payload).status.success());
}

fn parse(output: &Lines, (columns, rows): (u16, u16)) -> Parser {
    let size = |cells| NonZeroU16::new(cells).unwrap();
    let mut parser = Parser::new(size(rows), size(columns), 0);
    parser.process(&output.bytes());
    parser
}

/// What stands on a terminal of 80x24.
pub(crate) fn screen(output: &Lines) -> Parser {
    parse(output, USUAL)
}

impl Running {
    pub(crate) fn screen(&self) -> Parser {
        screen(&self.stdout)
    }

    /// Until all parts stand on the terminal of 80x24 at the same time.
    pub(crate) fn expect_shown(&self, parts: &[&str]) {
        self.expect_shown_on(USUAL, parts);
    }

    /// As [`expect_shown`](Self::expect_shown), on a terminal of another size.
    pub(crate) fn expect_shown_on(&self, size: (u16, u16), parts: &[&str]) {
        self.expect_screen(size, &format!("{parts:?}"), |contents| {
            parts.iter().all(|part| contents.contains(part))
        });
    }

    /// Until what stands on the terminal is as expected.
    pub(crate) fn expect_screen(
        &self,
        size: (u16, u16),
        what: &str,
        is_expected: impl Fn(&str) -> bool,
    ) {
        let contents = || parse(&self.stdout, size).screen().contents();
        let found = wait_until(SOON, || is_expected(&contents()));
        assert!(found, "not shown: {what}\n{}\n{self}", contents());
    }

    pub(crate) fn press(&mut self, keys: &str) {
        let terminal = self.terminal.as_mut().expect("a terminal");
        terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// The program finds out by SIGWINCH, or when it draws.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let terminal = self.terminal.as_ref().expect("a terminal");
        let size = [columns, rows].map(|cells| cells.to_string());
        let mut stty = command("stty");
        stty.args(["cols", &size[0], "rows", &size[1]]);
        stty.stdin(terminal.try_clone().unwrap());
        assert!(stty.status().expect("stty").success());
    }
}

impl Outcome {
    /// The rows of the last frame, on a terminal of 80x24 that has been restored.
    pub(crate) fn last_frame(&self) -> Vec<String> {
        let left = screen(&self.stdout);
        let left = left.screen();
        assert!(!left.alternate_screen() && !left.hide_cursor(), "{self}");
        let rows: Vec<_> = left.rows(0, USUAL.0).collect();
        assert!(rows[0].starts_with(" \u{25a0} "), "{rows:#?}");
        assert!(rows[22].starts_with(" ended 20"), "{rows:#?}");
        assert_eq!(left.cursor_position(), (23, 0), "{rows:#?}");
        rows
    }
}
