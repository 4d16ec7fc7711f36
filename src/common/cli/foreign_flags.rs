//! Answers to flags that other MQTT clients have, and the nearest name to a misspelt one. PURE.
//!
//! No answer depends on a value: it may be a secret.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

const ANSWERS: &str = include_str!("foreign_flags.tsv");

const HELP: &str =
    "-h is help; for the broker type --endpoint mqtt://HOST (without TLS) or --endpoint HOST (TLS)";
const VERSION: &str = "-V is the version of this program; for that of MQTT use --mqtt-version 5, or --mqtt-version 3.1.1";

pub fn foreign_flag_answers(
    program: &str,
) -> impl Iterator<Item = (Vec<&'static str>, &'static str)> {
    let rows = ANSWERS.lines().filter_map(|line| {
        let mut columns = line.split('\t');
        Some((columns.next()?, columns.next()?, columns.next()?))
    });
    let rows = rows.filter(move |(programs, ..)| ["both", program].contains(programs));
    rows.map(|(_, flags, text)| (flags.split(' ').collect(), text))
}

/// The name that a misspelt one is for, if one is near enough.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = name.to_lowercase().replace('_', "-");
    let distances = known.into_iter().map(|known| {
        let distance = strsim::damerau_levenshtein(&plain, &known.to_lowercase());
        (distance, known)
    });
    let (distance, nearest) = distances.min()?;
    (distance <= 1 + nearest.len() / 4).then_some(nearest)
}

/// The answer to the first flag on a command line that `root` does not have, or whose letter means something else
/// in other clients. None if no client is known to have it.
pub fn answer_foreign_flag(root: &Command, typed: &[OsString]) -> Option<String> {
    let mut command = root;
    let mut commands = 0;
    let mut words = typed.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, joined) = match long.split_once('=') {
                Some((name, _)) => (name, true),
                None => (long, false),
            };
            if name.is_empty() || ["help", "version"].contains(&name) {
                return None;
            }
            match find_arg(command, |arg| matches_long(arg, name)).map(value_count) {
                None => return find_foreign_answer(root, &format!("--{name}")),
                Some(ValueCount::Rest) => return None,
                Some(ValueCount::One) if !joined => drop(words.next()),
                Some(ValueCount::One | ValueCount::None) => {}
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (at, letter) in letters.char_indices() {
                let alone = typed.len() == commands + 2 && letters.len() == letter.len_utf8();
                match letter {
                    'h' | 'V' if alone => return None,
                    'h' if connects(command) => return Some(HELP.to_owned()),
                    'h' => return None,
                    'V' if command.get_name() == root.get_name() => {
                        return Some(VERSION.to_owned());
                    }
                    _ => {}
                }
                match find_arg(command, |arg| arg.get_short() == Some(letter)).map(value_count) {
                    None => return find_foreign_answer(root, &format!("-{letter}")),
                    Some(ValueCount::Rest) => return None,
                    Some(ValueCount::One) => {
                        if at + letter.len_utf8() == letters.len() {
                            words.next();
                        }
                        break;
                    }
                    Some(ValueCount::None) => {}
                }
            }
        } else if let Some(below) = command.find_subcommand(&*word) {
            (command, commands) = (below, commands + 1);
        }
    }
    None
}

fn find_foreign_answer(root: &Command, flag: &str) -> Option<String> {
    let (_, text) =
        foreign_flag_answers(root.get_name()).find(|(flags, _)| flags.contains(&flag))?;
    Some(format!("{flag}: {text}"))
}

fn find_arg(command: &Command, fits: impl Fn(&Arg) -> bool) -> Option<&Arg> {
    command.get_arguments().find(|arg| fits(arg))
}

fn matches_long(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
}

fn connects(command: &Command) -> bool {
    find_arg(command, |arg| arg.get_long() == Some("endpoint")).is_some()
}

enum ValueCount {
    None,
    One,
    Rest,
}

fn value_count(arg: &Arg) -> ValueCount {
    match arg.get_action() {
        ArgAction::Set | ArgAction::Append => match arg.get_num_args() {
            Some(range) if range.max_values() > 1 => ValueCount::Rest,
            _ => ValueCount::One,
        },
        _ => ValueCount::None,
    }
}
