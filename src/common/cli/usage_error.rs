//! One line for each error of the command line: the flag, the cause, and what to type. PURE.

use std::error::Error as _;
use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::foreign_flags::has_flag;
use super::manual::subcommands;
use super::{foreign_flags, redact};

const SEE_HELP: &str = "; see --help";

pub(super) fn explain(command: &Command, typed: &[OsString], error: &clap::Error) -> String {
    use ErrorKind as Kind;
    let strange = [Kind::UnknownArgument, Kind::InvalidSubcommand];
    if strange.contains(&error.kind())
        && let Some(answer) = foreign_flags::find_answer_for_command_line(command, typed)
    {
        return answer;
    }
    let text = |kind| texts(error, kind).into_iter().next();
    let arg = text(ContextKind::InvalidArg);
    let word = text(ContextKind::InvalidSubcommand);
    let value = text(ContextKind::InvalidValue);
    let line = match (error.kind(), arg, word) {
        (Kind::MissingSubcommand, _, Some(name)) => {
            let (command, _) = deepest(command, typed);
            format!("{name}: needs a command: {}", join_command_names(command))
        }
        (Kind::UnknownArgument, Some(arg), _) if !arg.starts_with('-') => {
            describe_stray_word(command, typed, arg)
        }
        (Kind::UnknownArgument, Some(arg), _) => unknown_flag(command, typed, arg),
        (Kind::InvalidSubcommand | Kind::ArgumentConflict, None, Some(word)) => {
            describe_stray_word(command, typed, word)
        }
        (Kind::MissingRequiredArgument, ..) => {
            missing(typed, &texts(error, ContextKind::InvalidArg))
        }
        (Kind::ArgumentConflict, Some(arg), _) => {
            let flag = flag_name(arg);
            let others = texts(error, ContextKind::PriorArg);
            let others: Vec<_> = others.into_iter().map(flag_name).collect();
            if others.is_empty() || others == [flag] {
                format!("{flag}: can be given once only")
            } else {
                let others = others.join(", ");
                format!("{flag}: cannot be used with {others}{SEE_HELP}")
            }
        }
        (Kind::InvalidValue, Some(arg), _) => {
            let values = texts(error, ContextKind::ValidValue).join(", ");
            match value.filter(|value| !value.is_empty()) {
                None if values.is_empty() => format!("{arg}: needs a value{SEE_HELP}"),
                None => format!("{arg}: needs a value: {values}"),
                Some(value) => format!("{} '{value}': must be one of {values}", flag_name(arg)),
            }
        }
        (Kind::ValueValidation, Some(arg), _) if error.source().is_some() => {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            let value = value.unwrap_or_default();
            format!("{} '{value}': {cause}{SEE_HELP}", flag_name(arg))
        }
        (Kind::TooManyValues, Some(arg), _) => format!("{}: takes no value", flag_name(arg)),
        _ => first_paragraph(&error.render().to_string()) + SEE_HELP,
    };
    let quoted = error.context().flat_map(|(kind, _)| texts(error, kind));
    redact::without_passwords(&line, quoted)
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text],
        Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

fn flag_name(arg: &str) -> &str {
    let name = arg.split([' ', '=']).next().unwrap_or(arg);
    name.trim_start_matches(['[', '<'])
        .trim_end_matches(['.', ']', '>'])
}

/// `error: A\n\n  tip: B\n\nUsage: …` as `A`.
fn first_paragraph(rendered: &str) -> String {
    let text = rendered.trim().trim_start_matches("error: ");
    let words = text.split("\n\n").next().unwrap_or(text).split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

fn missing(typed: &[OsString], args: &[&str]) -> String {
    let shown = args.iter().map(|arg| {
        let arg = arg.replace(['<', '>'], "").replace("...", "");
        match flag_name(&arg) {
            "--endpoint" => format!("{arg} (or --certs DIR with a file named endpoint)"),
            _ => arg,
        }
    });
    match args {
        ["--key <FILE>"] => {
            return "--key FILE is missing: --cert needs it as well; the key in the directory of \
                    --certs is for the certificate there"
                .to_owned();
        }
        ["--cert <FILE>"] => {
            return "--cert FILE is missing: --key needs it as well; the certificate in the \
                    directory of --certs is for the key there"
                .to_owned();
        }
        _ => {}
    }
    let shown = shown.collect::<Vec<_>>().join(" and ");
    let verb = if args.len() == 1 { "is" } else { "are" };
    let mut after_exec = typed.iter().skip_while(|word| *word != "--exec");
    let swallowed = after_exec.any(|word| args.iter().any(|arg| word == flag_name(arg)));
    let rest = if swallowed {
        ": --exec takes all that follows it; type --exec and its command last"
    } else {
        SEE_HELP
    };
    format!("{shown} {verb} missing{rest}")
}

fn unknown_flag(root: &Command, typed: &[OsString], flag: &str) -> String {
    let (command, path) = deepest(root, typed);
    let long = flag.trim_start_matches("--");
    let mut below = command.get_subcommands();
    if let Some(below) = below.find(|below| has_flag(below, long)) {
        let below = below.get_name();
        return format!("{flag}: comes after the command; type {path} {below} {flag}");
    }
    let known = command.get_arguments().filter_map(|arg| arg.get_long());
    match foreign_flags::nearest(long, known).filter(|_| flag.starts_with("--")) {
        Some(nearest) => format!("'{flag}': {path} has no such flag; did you mean --{nearest}?"),
        None => format!("'{flag}': {path} has no such flag{SEE_HELP}"),
    }
}

fn describe_stray_word(root: &Command, typed: &[OsString], word: &str) -> String {
    let (command, path) = deepest(root, typed);
    let program = root.get_name();
    if root.find_subcommand(word).is_some() {
        return format!("{word}: a command comes first; type {program} {word}, then the flags");
    }
    for outer in root.get_subcommands() {
        if command.get_name() == program && outer.find_subcommand(word).is_some() {
            let outer = outer.get_name();
            return format!("{word}: is a command of {outer}; type {program} {outer} {word}");
        }
    }
    let names = subcommands(command).map(Command::get_name);
    if let Some(nearest) = foreign_flags::nearest(word, names) {
        return format!("{word}: there is no such command; did you mean {path} {nearest}?");
    }
    if command.get_name() != program {
        if command.has_subcommands() {
            let names = join_command_names(command);
            return format!("{word}: {path} has no such command; type one of {names}");
        }
        let is_queue = |word: &OsString| word.to_string_lossy().starts_with("--queue");
        if has_flag(command, "queue") && !typed.iter().any(is_queue) {
            return format!("{word}: is one argument too many; did you mean --queue {word}?");
        }
        return format!("{word}: is one argument too many");
    }
    let has_text = typed.iter().any(|word| word == "-m" || word == "--message");
    let remedy = if has_text {
        "put a text of several words in quotes".to_owned()
    } else if has_flag(root, "message") {
        format!("to publish it type --message {word}")
    } else {
        format!("to subscribe to it type --topic {word}")
    };
    format!("{word}: is neither a flag nor a command; {remedy}")
}

fn join_command_names(command: &Command) -> String {
    let names: Vec<&str> = subcommands(command).map(Command::get_name).collect();
    names.join(", ")
}

fn deepest<'a>(root: &'a Command, typed: &[OsString]) -> (&'a Command, String) {
    let (mut command, mut path) = (root, root.get_name().to_owned());
    for word in typed.iter().skip(1) {
        match word.to_str().and_then(|word| command.find_subcommand(word)) {
            Some(below) if below.get_name() != "help" => command = below,
            _ => break,
        }
        path = format!("{path} {}", command.get_name());
    }
    (command, path)
}
