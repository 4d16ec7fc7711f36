//! `completions SHELL` and `man [COMMAND]`, which both programs have.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::manual;

const COMPLETIONS: &str = "completions";
const MAN: &str = "man";

pub(super) fn add_completions_and_man(command: Command) -> Command {
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .help("The shell")
        .value_parser(value_parser!(Shell));
    let completions = Command::new(COMPLETIONS)
        .about("Print a script with which a shell completes the flags")
        .arg(shell);
    let names = command.get_subcommands().map(Command::get_name);
    let names = names.chain([COMPLETIONS, MAN]).map(str::to_owned);
    let topic = Arg::new("command")
        .value_name("COMMAND")
        .help("A command of the program; without it the program itself")
        .value_parser(PossibleValuesParser::new(names.collect::<Vec<_>>()));
    let man = Command::new(MAN)
        .about("Print a manual page, for man -l -")
        .arg(topic);
    command.subcommand(completions).subcommand(man)
}

pub(super) fn generate_requested_text(command: &Command, matches: &ArgMatches) -> Option<Vec<u8>> {
    match matches.subcommand()? {
        (COMPLETIONS, matches) => {
            let mut text = Vec::new();
            let shell = matches.get_one::<Shell>("shell")?;
            let name = command.get_name().to_owned();
            clap_complete::generate(*shell, &mut command.clone(), name, &mut text);
            Some(text)
        }
        (MAN, matches) => {
            let about = matches.get_one::<String>("command");
            Some(manual::roff(command, about.map(String::as_str)).into_bytes())
        }
        _ => None,
    }
}
