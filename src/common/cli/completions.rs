//! `completions SHELL` and `man`, which both programs have: made from the same description of the
//! flags that parses them.

use std::io;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

const COMPLETIONS: &str = "completions";
const MAN: &str = "man";

/// Adds both to a program's commands.
pub(super) fn added_to(command: Command) -> Command {
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .help("Which shell")
        .value_parser(value_parser!(Shell));
    let completions = Command::new(COMPLETIONS)
        .about("Print what a shell needs to complete the flags: source it, or put it where the shell looks")
        .arg(shell);
    let man = Command::new(MAN).about("Print the manual page: pipe it into `man -l -`");
    command.subcommand(completions).subcommand(man)
}

/// The text that was asked for, if it was one of these.
pub(super) fn asked_for(command: &Command, matches: &ArgMatches) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match matches.subcommand() {
        Some((COMPLETIONS, matches)) => {
            let name = command.get_name().to_owned();
            let mut command = command.clone();
            if let Some(shell) = matches.get_one::<Shell>("shell") {
                clap_complete::generate(*shell, &mut command, name, &mut text);
            }
        }
        Some((MAN, _)) => clap_mangen::Man::new(command.clone()).render(&mut text)?,
        _ => return Ok(None),
    }
    Ok(Some(text))
}
