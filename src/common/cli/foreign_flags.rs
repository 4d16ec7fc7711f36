//! Answers to flags that other MQTT clients have, and the nearest name to a misspelt one. PURE.
//!
//! No answer depends on a value: it may be a secret.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

const ANSWERS: &str = include_str!("foreign_flags.tsv");

const HELP: &str =
    "-h is help; for the broker type --endpoint mqtt://HOST (without TLS) or --endpoint HOST (TLS)";
const VERSION: &str = "-V is the version of this program; for that of MQTT use --mqtt-version 5, or --mqtt-version 3.1.1";

pub fn foreign_flag_table(
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
pub fn find_answer_for_command_line(root: &Command, typed: &[OsString]) -> Option<String> {
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
            match find_arg(command, |arg| arg_has_long_name(arg, name)).map(arg_value_count) {
                None => return find_answer_for_flag(root, &format!("--{name}")),
                Some(OwnFlagValues::Rest) => return None,
                Some(OwnFlagValues::One) if !joined => drop(words.next()),
                Some(OwnFlagValues::One | OwnFlagValues::None) => {}
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (at, letter) in letters.char_indices() {
                let alone = typed.len() == commands + 2 && letters.len() == letter.len_utf8();
                match letter {
                    'h' | 'V' if alone => return None,
                    'h' if has_flag(command, "endpoint") => return Some(HELP.to_owned()),
                    'h' => return None,
                    'V' if command.get_name() == root.get_name() => {
                        return Some(VERSION.to_owned());
                    }
                    _ => {}
                }
                match find_arg(command, |arg| arg.get_short() == Some(letter)).map(arg_value_count)
                {
                    None => return find_answer_for_flag(root, &format!("-{letter}")),
                    Some(OwnFlagValues::Rest) => return None,
                    Some(OwnFlagValues::One) => {
                        if at + letter.len_utf8() == letters.len() {
                            words.next();
                        }
                        break;
                    }
                    Some(OwnFlagValues::None) => {}
                }
            }
        } else if let Some(below) = command.find_subcommand(&*word) {
            (command, commands) = (below, commands + 1);
        }
    }
    None
}

fn find_answer_for_flag(root: &Command, flag: &str) -> Option<String> {
    let (_, text) = foreign_flag_table(root.get_name()).find(|(flags, _)| flags.contains(&flag))?;
    Some(format!("{flag}: {text}"))
}

fn find_arg(command: &Command, fits: impl Fn(&Arg) -> bool) -> Option<&Arg> {
    command.get_arguments().find(|arg| fits(arg))
}

fn arg_has_long_name(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
}

pub(super) fn has_flag(command: &Command, long: &str) -> bool {
    find_arg(command, |arg| arg.get_long() == Some(long)).is_some()
}

enum OwnFlagValues {
    None,
    One,
    Rest,
}

fn arg_value_count(arg: &Arg) -> OwnFlagValues {
    match arg.get_action() {
        ArgAction::Set | ArgAction::Append => match arg.get_num_args() {
            Some(range) if range.max_values() > 1 => OwnFlagValues::Rest,
            _ => OwnFlagValues::One,
        },
        _ => OwnFlagValues::None,
    }
}
