//! What the environment and a configuration file add to the command line.
//!
//! Priority: flag, then the variable `IOT_NAME`, then the file. A setting becomes a flag in front of the typed ones, so
//! that it is checked as they are. A setting that conflicts with one of higher priority is ignored.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args as _, Command};
use toml::{Table, Value};

use super::args::{ConnectionArgs, LogArgs};
use super::foreign_flags::nearest;
use crate::common::cli::redact::without_password;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::small_file;

pub struct MergedArgs {
    /// The program's name first.
    pub args: Vec<OsString>,
    pub(super) origins: Vec<(String, String)>,
    pub(super) notes: Vec<String>,
    /// What environment and file set, by the long names of the flags.
    pub(super) settings: BTreeMap<String, Option<Vec<OsString>>>,
}

struct Setting {
    long: String,
    /// None for a flag that is off; empty for one that takes no value.
    values: Option<Vec<OsString>>,
    origin: String,
}

#[derive(Default)]
struct ConfigFile {
    path: String,
    settings: Vec<Setting>,
    /// Keys in the table of the other program, with its name.
    of_other: Vec<(&'static str, String)>,
}

type Variables = Vec<(OsString, OsString)>;

/// Adds to `args`, the program's name included, what the environment and the file set. A fault names the variable, or
/// the file and the key.
pub fn merge(
    command: &Command,
    args: Vec<OsString>,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<MergedArgs, Fault> {
    let is_ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"IOT_");
    let env: Variables = env
        .filter(|(name, value)| is_ours(name) && !value.is_empty())
        .collect();
    let mut merged = MergedArgs {
        args,
        origins: Vec::new(),
        notes: Vec::new(),
        settings: BTreeMap::new(),
    };
    let names_file = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"--config");
    if env.is_empty() && !merged.args.iter().any(names_file) {
        // A second parse would be a tenth of the time of a single message.
        return Ok(merged);
    }
    let mut lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from_mut(&merged.args) else {
        // Help, or an error for the real parser.
        return Ok(merged);
    };
    lenient.build();
    let (target, matches, depth) = deepest_subcommand(&lenient, &matches);
    let mut given: BTreeSet<String> = configurable_flags(target)
        .map(|arg| arg.get_id().to_string())
        .filter(|id| is_typed(matches, id))
        .collect();
    let mut settings = read_environment(target, &env)?;
    let file = load_config_file(&lenient, target, matches, &env)?;
    settings.extend(file.settings);
    settings.retain(|setting| {
        let arg = find_by_long_name(target, &setting.long);
        let is_free = arg.filter(|arg| !conflicting_ids(target, arg).any(|id| given.contains(&id)));
        is_free.is_some_and(|arg| given.insert(arg.get_id().to_string()))
    });
    for (table, key) in file.of_other {
        if let Some(cause) = why_misplaced(&lenient, target, &given, table, &key) {
            let message = format!("{}: {cause}", file.path);
            return Err(Fault::permanent(Exit::Config, message));
        }
    }
    let all = settings.iter();
    merged.settings = all.map(|s| (s.long.clone(), s.values.clone())).collect();
    insert_settings(&mut merged, depth, settings);
    merged.notes = misspelling_notes(&lenient, &env);
    Ok(merged)
}

fn misspelling_notes(root: &Command, env: &Variables) -> Vec<String> {
    let commands = std::iter::once(root).chain(root.get_subcommands());
    let known: BTreeSet<&str> = commands
        .flat_map(Command::get_arguments)
        .filter_map(Arg::get_long)
        .collect();
    let names = env.iter().filter_map(|(name, _)| name.to_str());
    let unknown = names.filter(|name| !known.iter().any(|long| variable_name(long) == *name));
    let note = |name: &str| {
        let nearest = nearest(name.strip_prefix("IOT_")?, known.iter().copied())?;
        let nearest = variable_name(nearest);
        Some(format!(
            "{name}: no flag has this name; did you mean {nearest}?"
        ))
    };
    unknown.filter_map(note).collect()
}

fn deepest_subcommand<'a>(
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

/// The flags that can be set elsewhere. The form of what `check` and `status` print has to be typed.
fn configurable_flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let reads_file = command.get_arguments().any(|arg| arg.get_id() == "config");
    let prints_result = reads_file && ["check", "status"].contains(&command.get_name());
    command.get_arguments().filter(move |arg| {
        arg.get_long().is_some_and(|long| {
            let is_typed_only = ["help", "version", "config"].contains(&long);
            !is_typed_only && (long != "json" || !prints_result)
        })
    })
}

fn find_by_long_name<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    configurable_flags(command).find(|arg| arg.get_long() == Some(long))
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    // An argument that this command does not have was not typed.
    matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// `client-id` as `IOT_CLIENT_ID`.
fn variable_name(long: &str) -> String {
    format!("IOT_{}", long.to_uppercase().replace('-', "_"))
}

fn read_environment(command: &Command, env: &Variables) -> Result<Vec<Setting>, Fault> {
    let mut settings = Vec::new();
    for arg in configurable_flags(command) {
        let long = arg.get_long().unwrap_or_default();
        let name = variable_name(long);
        let Some((_, value)) = env.iter().find(|(n, _)| n == name.as_str()) else {
            continue;
        };
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
                    let value = without_password(&value.to_string_lossy());
                    let message = format!("{name}={value}: must be true or false");
                    return Err(Fault::usage(message));
                }
            }
        };
        settings.push(Setting {
            long: long.to_owned(),
            values,
            origin: name,
        });
    }
    Ok(settings)
}

fn load_config_file(
    root: &Command,
    target: &Command,
    matches: &ArgMatches,
    env: &Variables,
) -> Result<ConfigFile, Fault> {
    if !target.get_arguments().any(|arg| arg.get_id() == "config") {
        return Ok(ConfigFile::default());
    }
    let typed = matches.get_raw("config").and_then(|mut raw| raw.next());
    let variable = env.iter().find(|(name, _)| name == "IOT_CONFIG");
    match typed.or(variable.map(|(_, value)| value.as_os_str())) {
        Some(path) => read_config_file(Path::new(path), root, target),
        None => Ok(ConfigFile::default()),
    }
}

fn read_config_file(path: &Path, root: &Command, target: &Command) -> Result<ConfigFile, Fault> {
    let shown = path.display().to_string();
    let text = small_file::read_text("--config", path)?;
    let wrong = |cause: String| Fault::permanent(Exit::Config, format!("{shown}: {cause}"));
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| {
        // The line itself may hold a password.
        let place = e.span().map(|span| line_and_column(&text, span.start));
        let (place, cause) = (place.unwrap_or_default(), e.message());
        wrong(format!(
            "--config is not TOML: {place}{cause}; write it as in topic = \"a/b\" or retain = true"
        ))
    })?;
    let program = root.get_name();
    let known: BTreeSet<&str> = configurable_flags(root)
        .chain(configurable_flags(target))
        .filter_map(Arg::get_long)
        .collect();
    let own = match table.remove(program) {
        None => Table::new(),
        Some(Value::Table(own)) => own,
        Some(_) => return Err(wrong(format!("{program} must be a table: [{program}]"))),
    };
    let mut of_other = Vec::new();
    for other in PROGRAMS {
        if let Some(Value::Table(others)) = table.get(other) {
            of_other.extend(others.keys().map(|key| (other, key.clone())));
            table.remove(other);
        }
    }
    let mut settings = Vec::new();
    for (key, value) in own.into_iter().chain(table) {
        if !known.contains(key.as_str()) {
            return Err(wrong(unknown_key(&key, &known)));
        }
        let Some(arg) = find_by_long_name(target, &key) else {
            continue;
        };
        let mut values =
            values_from_toml(arg, &value).map_err(|cause| wrong(format!("{key} {cause}")))?;
        if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
            && let Some(dir) = path.parent()
        {
            // Relative to the file, so that the two can be moved together.
            for value in values.iter_mut().flatten().filter(|value| *value != "-") {
                *value = dir.join(&*value).into();
            }
        }
        settings.push(Setting {
            long: key,
            values,
            origin: shown.clone(),
        });
    }
    Ok(ConfigFile {
        path: shown,
        settings,
        of_other,
    })
}

/// A position in a text as editors count: `line 2, column 5: `.
fn line_and_column(text: &str, at: usize) -> String {
    let before = String::from_utf8_lossy(text.as_bytes().get(..at).unwrap_or(text.as_bytes()));
    let line = before.matches('\n').count() + 1;
    let last = before.rsplit('\n').next().unwrap_or_default();
    let column = last.chars().count() + 1;
    format!("line {line}, column {column}: ")
}

/// The programs that may share a file.
const PROGRAMS: [&str; 2] = ["publisher", "subscriber"];

/// The flags that both have beside those of the connection and the log.
const OF_BOTH: &str = "topic qos count verbose summary exec exec-timeout metrics";

/// Why a key in `table`, that of the other program, is a mistake: only this program has the flag; or it is a source,
/// and this program has no other.
fn why_misplaced(
    root: &Command,
    target: &Command,
    given: &BTreeSet<String>,
    table: &str,
    key: &str,
) -> Option<String> {
    let program = root.get_name();
    let arg = find_by_long_name(root, key)?;
    let shared = LogArgs::augment_args(ConnectionArgs::augment_args(Command::new("shared")));
    if !OF_BOTH.split(' ').any(|flag| flag == key) && find_by_long_name(&shared, key).is_none() {
        return Some(format!(
            "{key} stands under [{table}], and is a flag of {program} only; move it under [{program}]"
        ));
    }
    let is_chosen = |group: &ArgGroup| group.get_args().any(|id| given.contains(id.as_str()));
    let mut groups = exclusive_groups(root, arg);
    let missing = target.get_name() == program && groups.any(|group| !is_chosen(group));
    missing.then(|| {
        format!(
            "{key} stands under [{table}], and {program} has no other source; move it under [{program}], or give \
             {program} another source"
        )
    })
}

/// The groups of which only one flag may be given, this one among them.
fn exclusive_groups<'a>(command: &'a Command, arg: &'a Arg) -> impl Iterator<Item = &'a ArgGroup> {
    // The derive macro makes a group of each struct, in which all go together.
    let has = |group: &ArgGroup| group.get_args().any(|member| member == arg.get_id());
    let groups = command.get_groups();
    groups.filter(move |group| !(*group).clone().is_multiple() && has(group))
}

fn conflicting_ids<'a>(command: &'a Command, arg: &'a Arg) -> impl Iterator<Item = String> {
    let in_groups = exclusive_groups(command, arg).flat_map(ArgGroup::get_args);
    // A conflict is declared on one side, and holds on both.
    let excludes = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|arg| arg.get_id() == other.get_id())
    };
    let rivals = configurable_flags(command)
        .filter(move |other| excludes(arg, other) || excludes(other, arg));
    let ids = in_groups.chain(rivals.map(Arg::get_id));
    ids.chain([arg.get_id()]).map(ToString::to_string)
}

fn unknown_key(key: &str, known: &BTreeSet<&str>) -> String {
    let tip = match nearest(key, known.iter().copied()) {
        Some(name) => format!("did you mean {name}?"),
        None => "its keys are the long names of flags, see --help".into(),
    };
    let key = without_password(key);
    format!(
        "unknown key {key}; {tip} (a flag of one program only belongs under [publisher] or [subscriber])"
    )
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn values_from_toml(arg: &Arg, value: &Value) -> Result<Option<Vec<OsString>>, String> {
    let takes_rest = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    let is_list = matches!(arg.get_action(), ArgAction::Append) || takes_rest;
    match value {
        Value::Boolean(set) if !takes_value(arg) => Ok(set.then(Vec::new)),
        _ if !takes_value(arg) => Err("must be true or false".into()),
        Value::Array(items) if items.is_empty() => Err("must not be empty".into()),
        Value::Array(items) if is_list => items
            .iter()
            .map(value_to_text)
            .collect::<Result<_, _>>()
            .map(Some),
        value => Ok(Some(vec![value_to_text(value)?])),
    }
}

fn value_to_text(value: &Value) -> Result<OsString, String> {
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Float(number) => Ok(number.to_string().into()),
        _ => Err("must be a text or a number".into()),
    }
}

/// Puts settings in front of the typed flags; `--exec`, which takes all that follows, behind them.
fn insert_settings(merged: &mut MergedArgs, depth: usize, settings: Vec<Setting>) {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for setting in settings {
        let flag = format!("--{}", setting.long);
        let Some(values) = setting.values else {
            continue;
        };
        if values.is_empty() {
            front.push(flag.clone().into());
        } else if setting.long == "exec" {
            back.push(flag.clone().into());
            back.extend(values);
        } else {
            front.extend(values.iter().map(|value| {
                let parts = [flag.as_ref(), OsStr::new("="), value];
                parts.into_iter().collect::<OsString>()
            }));
        }
        merged.origins.push((flag, setting.origin));
    }
    let at = (1 + depth).min(merged.args.len());
    merged.args.splice(at..at, front);
    merged.args.extend(back);
}
