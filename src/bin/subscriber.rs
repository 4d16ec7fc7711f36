//! The `subscriber` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::runtime::logging;
use iot_pubsub::common::{check, cli};
use iot_pubsub::subscriber::args::Command;
use iot_pubsub::subscriber::run;

fn main() -> ExitCode {
    cli::main("subscriber", |command| match command {
        Command::Subscribe(args) => {
            logging::init(args.verbosity());
            run::run(&args.check()?)
        }
        Command::Check(args) => {
            logging::init(args.verbosity());
            check::run(&args.check("subscriber")?)
        }
    })
}
