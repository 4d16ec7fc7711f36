//! What the environment and a configuration file add to the command line.
//!
//! Precedence: flag, then the variable `IOT_NAME`, then the file. A value from below becomes a
//! flag in front of the others, so that it is checked and refused as they are; one that does
//! not go together with what stands above it is left out. Who wins is decided here, what a
//! value means is not.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args as _, Command};
use toml::{Table, Value};

use super::args::{ConnectionArgs, LogArgs};
use crate::common::cli::redact::without_password;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::small_file;

/// A command line with everything on it.
pub(super) struct Merged {
    /// The arguments, the program's name first.
    pub(super) args: Vec<OsString>,
    /// Flags that were not typed, and where they come from.
    pub(super) origins: Vec<(String, String)>,
    /// What is worth a word, and no error.
    pub(super) notes: Vec<String>,
}

/// One value from below.
struct Found {
    /// The flag's long name.
    long: String,
    /// Its values; none for a flag that is off.
    values: Option<Vec<OsString>>,
    origin: String,
}

/// What a configuration file says.
#[derive(Default)]
struct FromFile {
    found: Vec<Found>,
    /// Its path.
    shown: String,
    /// The keys in the table of the other program, and the name of that.
    elsewhere: Vec<(&'static str, String)>,
}

/// Adds to `args`, the program's name included, what the environment and the file say.
///
/// # Errors
///
/// A fault that names the variable, or the file and the key.
pub(super) fn merge(
    command: &Command,
    args: Vec<OsString>,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Merged, Fault> {
    let env: Vec<(OsString, OsString)> = env.filter(is_ours).collect();
    let names_file = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"--config");
    if env.is_empty() && !args.iter().any(names_file) {
        // Nothing to add: a second parse would be a tenth of the time of a single message.
        return Ok(untouched(args));
    }
    let mut lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from_mut(&args) else {
        // Help, or something for the real parser to refuse.
        return Ok(untouched(args));
    };
    lenient.build();
    let (target, matches, depth) = deepest(&lenient, &matches);
    let mut given: BTreeSet<String> = flags(target)
        .map(|arg| arg.get_id().to_string())
        .filter(|id| is_typed(matches, id))
        .collect();
    let mut below = Vec::new();
    for found in from_environment(target, &env)? {
        add(target, &mut given, &mut below, found);
    }
    let file = from_file(&lenient, target, matches, &env)?;
    for found in file.found {
        add(target, &mut given, &mut below, found);
    }
    for (table, key) in file.elsewhere {
        if let Some(why) = misplaced(&lenient, target, &given, table, &key) {
            let message = format!("{}: {why}", file.shown);
            return Err(Fault::permanent(Exit::Config, message));
        }
    }
    let mut merged = insert(args, depth, below);
    merged.notes = misspelt(&lenient, &env);
    Ok(merged)
}

/// What to say of variables that look like flags and are none.
fn misspelt(root: &Command, env: &[(OsString, OsString)]) -> Vec<String> {
    let commands = || std::iter::once(root).chain(root.get_subcommands());
    let known: BTreeSet<String> = commands()
        .flat_map(Command::get_arguments)
        .filter_map(Arg::get_long)
        .map(variable)
        .collect();
    let names = env.iter().filter_map(|(name, _)| name.to_str());
    let ours = names.filter(|name| !known.contains(*name));
    ours.filter_map(|name| {
        let nearest = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(name, known), known))
            .min()?;
        let (distance, known) = nearest;
        (distance <= 2).then(|| format!("{name}: no flag has this name; did you mean {known}?"))
    })
    .collect()
}

/// Whether a variable looks like a flag of ours.
fn is_ours((name, _): &(OsString, OsString)) -> bool {
    name.as_encoded_bytes().starts_with(b"IOT_")
}

fn untouched(args: Vec<OsString>) -> Merged {
    Merged {
        args,
        origins: Vec::new(),
        notes: Vec::new(),
    }
}

/// The subcommand that was asked for, its matches, and how many words name it.
fn deepest<'a>(
    command: &'a Command,
    matches: &'a ArgMatches,
) -> (&'a Command, &'a ArgMatches, usize) {
    let (mut target, mut inner, mut depth) = (command, matches, 0);
    while let Some((name, below)) = inner.subcommand()
        && let Some(sub) = target.find_subcommand(name)
    {
        (target, inner, depth) = (sub, below, depth + 1);
    }
    (target, inner, depth)
}

/// The flags that can come from below. What `check` prints is only for who calls it to say.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let json = if command.get_name() == "check" {
        "json"
    } else {
        ""
    };
    let not_below = ["help", "version", "config", json];
    command.get_arguments().filter(move |arg| {
        arg.get_long()
            .is_some_and(|long| !not_below.contains(&long))
    })
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    // An argument that this command does not have was not typed.
    matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// `client-id` as `IOT_CLIENT_ID`.
fn variable(long: &str) -> String {
    format!("IOT_{}", long.to_uppercase().replace('-', "_"))
}

fn from_environment(command: &Command, env: &[(OsString, OsString)]) -> Result<Vec<Found>, Fault> {
    let mut found = Vec::new();
    for arg in flags(command) {
        let long = arg.get_long().unwrap_or_default();
        let name = variable(long);
        let value = env
            .iter()
            .find(|(n, v)| n == name.as_str() && !v.is_empty());
        let Some((_, value)) = value else { continue };
        let kind = arg.get_value_parser().type_id();
        let takes_any = kind == TypeId::of::<PathBuf>() || kind == TypeId::of::<OsString>();
        if value.to_str().is_none() && !takes_any {
            return Err(Fault::usage(format!("{name} is not UTF-8 text")));
        }
        let values = if takes_value(arg) {
            Some(vec![value.clone()])
        } else {
            match value.to_str().map(str::to_ascii_lowercase).as_deref() {
                Some("1" | "true" | "yes" | "on") => Some(Vec::new()),
                Some("0" | "false" | "no" | "off") => None,
                _ => {
                    let value = value.to_string_lossy();
                    let value = without_password(&value);
                    return Err(Fault::usage(format!(
                        "{name}={value}: must be true or false"
                    )));
                }
            }
        };
        found.push(Found {
            long: long.to_owned(),
            values,
            origin: name,
        });
    }
    Ok(found)
}

fn from_file(
    root: &Command,
    target: &Command,
    matches: &ArgMatches,
    env: &[(OsString, OsString)],
) -> Result<FromFile, Fault> {
    let has_file = target.get_arguments().any(|arg| arg.get_id() == "config");
    let typed = has_file
        .then(|| matches.get_raw("config").and_then(|mut raw| raw.next()))
        .flatten();
    let variable = env
        .iter()
        .find(|(name, value)| name == "IOT_CONFIG" && !value.is_empty());
    let named = typed.or(variable
        .filter(|_| has_file)
        .map(|(_, value)| value.as_os_str()));
    match named {
        Some(path) => read(Path::new(path), root, target),
        None => Ok(FromFile::default()),
    }
}

fn read(path: &Path, root: &Command, target: &Command) -> Result<FromFile, Fault> {
    let shown = path.display();
    let text = small_file::read_text("--config", path)?;
    let wrong = |why: String| Fault::permanent(Exit::Config, format!("{shown}: {why}"));
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| {
        // The line itself may hold a password.
        let place = e
            .span()
            .map_or_else(String::new, |span| place(&text, span.start));
        let cause = e.message();
        wrong(format!(
            "--config is not TOML: {place}{cause}; write it as in topic = \"a/b\" or retain = true"
        ))
    })?;
    let program = root.get_name().to_owned();
    let mut known: BTreeSet<&str> = flags(root)
        .chain(flags(target))
        .filter_map(Arg::get_long)
        .collect();
    known.remove("config");
    let own = match table.remove(&program) {
        None => Table::new(),
        Some(Value::Table(own)) => own,
        Some(_) => return Err(wrong(format!("{program} must be a table: [{program}]"))),
    };
    // The other program's own table is the other program's business, but for what only this one knows.
    let mut elsewhere = Vec::new();
    for other in OTHERS {
        if let Some(Value::Table(others)) = table.get(other) {
            elsewhere.extend(others.keys().map(|key| (other, key.clone())));
            table.remove(other);
        }
    }
    let mut found = Vec::new();
    for (key, value) in own.into_iter().chain(table) {
        if !known.contains(key.as_str()) {
            return Err(wrong(unknown(&key, &known)));
        }
        let Some(arg) = flags(target).find(|arg| arg.get_long() == Some(&key)) else {
            continue;
        };
        let mut values = values(arg, &value).map_err(|why| wrong(format!("{key} {why}")))?;
        if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
            && let Some(dir) = path.parent()
        {
            // A path in the file starts where the file is: the two are moved together.
            for value in values.iter_mut().flatten() {
                *value = dir.join(&*value).into();
            }
        }
        found.push(Found {
            long: key,
            values,
            origin: shown.to_string(),
        });
    }
    Ok(FromFile {
        found,
        shown: shown.to_string(),
        elsewhere,
    })
}

/// Where in a text a byte stands, as editors count.
fn place(text: &str, at: usize) -> String {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    let before = String::from_utf8_lossy(before);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("line {line}, column {column}: ")
}

/// The programs that may share a file.
const OTHERS: [&str; 2] = ["publisher", "subscriber"];

/// The flags that both have beside those of the connection and the log.
const OF_BOTH: [&str; 7] = [
    "topic",
    "qos",
    "count",
    "verbose",
    "summary",
    "exec",
    "exec-timeout",
];

/// Why a key in the other program's table, `table`, is a mistake: it is for this program only; or it would
/// say what this program is to publish, and nothing else does.
fn misplaced(
    root: &Command,
    target: &Command,
    given: &BTreeSet<String>,
    table: &str,
    key: &str,
) -> Option<String> {
    let program = root.get_name();
    let arg = flags(root).find(|arg| arg.get_long() == Some(key))?;
    let shared = LogArgs::augment_args(ConnectionArgs::augment_args(Command::new("shared")));
    if !OF_BOTH.contains(&key) && !flags(&shared).any(|arg| arg.get_long() == Some(key)) {
        return Some(format!(
            "{key} stands under [{table}], and is a flag of {program} only; move it under [{program}]"
        ));
    }
    let mut groups = root.get_groups().filter(|group| is_choice(group, arg));
    let chosen = |group: &ArgGroup| {
        group
            .get_args()
            .any(|member| given.contains(member.as_str()))
    };
    let missing = target.get_name() == program && groups.any(|group| !chosen(group));
    missing.then(|| {
        format!(
            "{key} stands under [{table}], and nothing says what {program} is to do in its place; move it under \
             [{program}], or give {program} another source"
        )
    })
}

/// Whether a flag is one of several of which there may be one.
fn is_choice(group: &ArgGroup, arg: &Arg) -> bool {
    // The derive macro makes a group of each struct, in which all go together.
    !group.clone().is_multiple() && group.get_args().any(|member| member == arg.get_id())
}

/// What to say of a key that nobody knows.
fn unknown(key: &str, known: &BTreeSet<&str>) -> String {
    let plain = key.to_lowercase().replace('_', "-");
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&plain, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
    let tip = match nearest {
        Some((_, name)) => format!("did you mean {name}?"),
        None => "its keys are the long names of flags, see --help".into(),
    };
    let key = without_password(key);
    format!(
        "unknown key {key}; {tip} (what only one program knows belongs under [publisher] or \
         [subscriber])"
    )
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The values of a flag; none if it is not set at all.
fn values(arg: &Arg, value: &Value) -> Result<Option<Vec<OsString>>, String> {
    let several = matches!(arg.get_action(), ArgAction::Append) || is_last(arg);
    match value {
        Value::Boolean(set) if !takes_value(arg) => Ok(set.then(Vec::new)),
        _ if !takes_value(arg) => Err("must be true or false".into()),
        Value::Array(items) if items.is_empty() => Err("must not be empty".into()),
        Value::Array(items) if several => {
            let texts: Result<Vec<OsString>, String> = items.iter().map(text).collect();
            Ok(Some(texts?))
        }
        value => Ok(Some(vec![text(value)?])),
    }
}

fn text(value: &Value) -> Result<OsString, String> {
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Float(number) => Ok(number.to_string().into()),
        _ => Err("must be a text or a number".into()),
    }
}

/// Whether the flag takes everything that follows.
fn is_last(arg: &Arg) -> bool {
    arg.get_num_args()
        .is_some_and(|range| range.max_values() > 1)
}

/// Takes a value from below, unless something above it is in its way.
fn add(command: &Command, given: &mut BTreeSet<String>, below: &mut Vec<Found>, found: Found) {
    let Some(arg) = flags(command).find(|arg| arg.get_long() == Some(&found.long)) else {
        return;
    };
    let id = arg.get_id();
    let rivals = command
        .get_groups()
        .filter(|group| is_choice(group, arg))
        .flat_map(|group| group.get_args().map(ToString::to_string));
    // A conflict is declared on one side, and holds on both.
    let at_odds = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts
            .iter()
            .any(|conflict| conflict.get_id() == other.get_id())
    };
    let conflicts = flags(command)
        .filter(|other| at_odds(arg, other) || at_odds(other, arg))
        .map(|other| other.get_id().to_string());
    let rivals = rivals.chain(conflicts).chain([id.to_string()]);
    if rivals.into_iter().any(|other| given.contains(&other)) {
        return;
    }
    given.insert(id.to_string());
    below.push(found);
}

/// Puts flags in front of those that were typed; one that takes all that follows, behind them.
fn insert(args: Vec<OsString>, depth: usize, below: Vec<Found>) -> Merged {
    let mut front = Vec::new();
    let mut back = Vec::new();
    let mut origins = Vec::new();
    for Found {
        long,
        values,
        origin,
    } in below
    {
        let flag = format!("--{long}");
        let Some(values) = values else { continue };
        if values.is_empty() {
            front.push(flag.clone().into());
        } else if long == "exec" {
            back.push(flag.clone().into());
            back.extend(values);
        } else {
            front.extend(values.iter().map(|value| joined(&flag, value)));
        }
        origins.push((flag, origin));
    }
    let split = (1 + depth).min(args.len());
    let mut all: Vec<OsString> = args;
    let typed = all.split_off(split);
    all.extend(front);
    all.extend(typed);
    all.extend(back);
    Merged {
        args: all,
        origins,
        notes: Vec::new(),
    }
}

fn joined(flag: &str, value: &OsStr) -> OsString {
    let mut joined = OsString::from(flag);
    joined.push("=");
    joined.push(value);
    joined
}
