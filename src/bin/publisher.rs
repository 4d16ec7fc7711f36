//! The `publisher` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::runtime::logging;
use iot_pubsub::common::{check, cli};
use iot_pubsub::publisher::args::Command;
use iot_pubsub::publisher::{queue_command, run};

fn main() -> ExitCode {
    cli::main("publisher", |command| match command {
        Command::Publish(args) => {
            logging::init(args.verbosity());
            run::run(&args.check()?)
        }
        Command::Check(args) => {
            logging::init(args.verbosity());
            check::run(&args.check("publisher")?)
        }
        Command::Queue(args) => {
            logging::init(args.verbosity());
            queue_command::run(args)
        }
    })
}
