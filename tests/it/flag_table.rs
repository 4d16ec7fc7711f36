//! Every flag of both programs is in `--help`, the manual page and the completion, and can be set by the configuration
//! file and the environment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

use clap::{Arg, ArgAction, ArgMatches, Command};
use iot_pubsub::common::cli::merged_settings;

use crate::harness::{process, temp_dir};
use crate::manual::{commands, plain_manual_page, run};

/// A command by its words, `["publisher", "queue", "list"]`.
struct Target {
    words: Vec<String>,
    command: Command,
}

impl Target {
    /// The program and all its commands.
    fn all(program: &Command) -> Vec<Self> {
        let mut program = program.clone();
        program.build();
        let mut targets = Vec::new();
        add(&mut targets, Vec::new(), &program);
        targets
    }

    fn program(&self) -> &str {
        &self.words[0]
    }

    fn args(&self) -> Vec<&str> {
        self.words[1..].iter().map(String::as_str).collect()
    }

    /// The long flags that are shown.
    fn flags(&self) -> BTreeSet<String> {
        let shown = self
            .command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set());
        let long = shown.filter_map(Arg::get_long);
        long.map(|long| format!("--{long}")).collect()
    }
}

fn add(targets: &mut Vec<Target>, before: Vec<String>, command: &Command) {
    let words = [before, vec![command.get_name().to_owned()]].concat();
    if words.last().is_some_and(|word| word == "help") {
        return;
    }
    for below in command.get_subcommands() {
        add(targets, words.clone(), below);
    }
    targets.push(Target {
        words,
        command: command.clone(),
    });
}

fn targets() -> Vec<Target> {
    let targets: Vec<_> = commands().iter().flat_map(Target::all).collect();
    let count: usize = targets.iter().map(|target| target.flags().len()).sum();
    assert!(count > 250, "{count} flags");
    targets
}

/// The flags that lines begin with, `  -e, --endpoint <HOST>`, in what comes before the examples.
fn described_flags(text: &str) -> BTreeSet<String> {
    let text = text.split("\nExamples:").next().unwrap();
    let text = text.split("\nEXAMPLES").next().unwrap();
    // The description before the flags may name some as well.
    let sections = ["\nUsage:", "\nCOMMANDS\n", "\nOPTIONS\n"].map(|heading| text.find(heading));
    let text = &text[sections.into_iter().flatten().min().unwrap_or(0)..];
    // Explanations are indented further, and may begin with a flag, too.
    let is_description = |line: &&str| {
        let flags = line.trim_start();
        flags.starts_with('-') && line.len() - flags.len() < 8
    };
    let lines = text.lines().filter(is_description);
    let words = lines.filter_map(|line| {
        let mut words = line.split([' ', ',', '=']);
        words.find(|word| word.starts_with("--"))
    });
    words.map(str::to_owned).collect()
}

#[test]
fn every_flag_is_described_in_the_help_and_in_the_manual_page() {
    for target in targets() {
        let help = run(target.program(), &[target.args(), vec!["--help"]].concat());
        assert_eq!(described_flags(&help), target.flags(), "{:?}", target.words);
        if target.words.len() > 2 {
            // The page of `publisher queue` has them all.
            continue;
        }
        let page = plain_manual_page(target.program(), &target.args());
        let below = targets()
            .into_iter()
            .filter(|other| target.words.len() == 2 && other.words.starts_with(&target.words));
        let mut expected: BTreeSet<_> = below.flat_map(|target| target.flags()).collect();
        expected.extend(target.flags());
        expected.remove("--help");
        let mut described = described_flags(&page);
        described.remove("--help");
        assert_eq!(described, expected, "{:?}", target.words);
    }
}

#[test]
fn the_completion_of_bash_offers_every_flag_and_other_shells_know_it() {
    for program in ["publisher", "subscriber"] {
        let script = run(program, &["completions", "bash"]);
        let others = ["zsh", "fish"].map(|shell| run(program, &["completions", shell]));
        for target in targets() {
            if target.program() != program {
                continue;
            }
            let words = target.words.join(" ");
            let ask = format!(
                "{script}\nCOMP_WORDS=({words} --); COMP_CWORD={}; _{program} {program} -- {}\n\
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"",
                target.words.len(),
                target.words.last().unwrap()
            );
            let output = process::command("bash")
                .args(["-c", &ask])
                .output()
                .unwrap();
            let offered = described_flags(&String::from_utf8(output.stdout).unwrap());
            let missing: Vec<_> = target.flags().difference(&offered).cloned().collect();
            assert!(missing.is_empty(), "{words}: {missing:?} of {offered:?}");
            for flag in target.flags() {
                let name = &flag[2..];
                let is_known = |rest: &str| {
                    let before = ["'", ")", "*"].map(|before| format!("{before}{flag}{rest}"));
                    before.iter().any(|known| others[0].contains(known))
                };
                let zsh = ["[", "=[", "+["].into_iter().any(is_known);
                let fish = format!(" -l {name} ");
                assert!(zsh, "{flag} in zsh");
                assert!(others[1].contains(&fish), "{flag} in fish");
            }
        }
    }
}

/// Values, of which each flag accepts one.
const SAMPLES: [&str; 8] = ["7", "0.5", "3.1.1", "a=b", "1.3", "4096", "2", "/a"];

/// A flag as it may be typed, and its value, which is not the default.
fn sample(program: &Command, words: &[OsString], arg: &Arg) -> (OsString, String) {
    let long = arg.get_long().unwrap();
    if !takes_value(arg) {
        return (format!("--{long}").into(), String::new());
    }
    let possible = arg.get_possible_values();
    let possible = possible.iter().map(|value| value.get_name().to_owned());
    let default = arg.get_default_values().first();
    let mut values = SAMPLES
        .iter()
        .map(|value| (*value).to_owned())
        .chain(possible);
    let id = arg.get_id().as_str();
    let found = values.find_map(|value| {
        let flag = OsString::from(format!("--{long}={value}"));
        let typed = [words, std::slice::from_ref(&flag)].concat();
        let is_taken = !given(program, typed, id).is_empty();
        let is_default = default.is_some_and(|default| default == value.as_str());
        (is_taken && !is_default).then_some((flag, value))
    });
    found.unwrap_or_else(|| panic!("no value for --{long}"))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// What a command line gives for a flag of the innermost command.
fn given(command: &Command, args: Vec<OsString>, id: &str) -> Vec<OsString> {
    let mut lenient = command.clone().ignore_errors(true);
    let matches = lenient.try_get_matches_from_mut(args).unwrap();
    let mut inner: &ArgMatches = &matches;
    while let Some((_, below)) = inner.subcommand() {
        inner = below;
    }
    if inner.value_source(id) != Some(clap::parser::ValueSource::CommandLine) {
        return Vec::new();
    }
    inner
        .get_raw(id)
        .into_iter()
        .flatten()
        .map(OsString::from)
        .collect()
}

#[test]
fn every_flag_can_be_set_by_the_environment_and_the_configuration_file_as_if_it_were_typed() {
    let dir = temp_dir();
    let file = dir.path().join("iot.toml");
    let mut count = 0;
    for program in &commands() {
        for target in Target::all(program) {
            let prints_result = ["check", "status"].contains(&target.words[1..].join(" ").as_str());
            let has_file = target.flags().contains("--config");
            for arg in target.command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                if ["help", "version", "config"].contains(&long) || prints_result && long == "json"
                {
                    continue;
                }
                let words: Vec<OsString> = target.words.iter().map(OsString::from).collect();
                let (flag, value) = sample(program, &words, arg);
                let id = arg.get_id().as_str();
                let expected = given(program, [words.clone(), vec![flag]].concat(), id);
                assert!(!expected.is_empty(), "{:?} {long}", target.words);

                let (in_environment, toml) = if takes_value(arg) {
                    (value.clone(), format!("{long} = \"{value}\""))
                } else {
                    ("on".to_owned(), format!("{long} = true"))
                };
                let name = format!("IOT_{}", long.to_uppercase().replace('-', "_"));
                let variable = (OsString::from(name), OsString::from(in_environment));
                let merged = merged_settings::merge(program, words.clone(), [variable].into_iter());
                let by_environment = given(program, merged.unwrap().args, id);
                assert_eq!(by_environment, expected, "{:?} {long}", target.words);

                if has_file {
                    fs::write(&file, format!("[{}]\n{toml}\n", program.get_name())).unwrap();
                    let config = [OsString::from("--config"), file.clone().into()];
                    let args = [words, config.to_vec()].concat();
                    let merged = merged_settings::merge(program, args, std::iter::empty());
                    let by_file = given(program, merged.unwrap().args, id);
                    let in_directory = [OsString::from(dir.path().join(&value))];
                    // Paths start where the file is.
                    assert!(
                        by_file == expected || by_file == in_directory,
                        "{:?} {long}",
                        target.words
                    );
                }
                count += 1;
            }
        }
    }
    assert!(count > 200, "{count} flags");
}
