//! The `publisher` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::runtime::logging;
use iot_pubsub::common::{check, cli};
use iot_pubsub::publisher::args::{Cli, Command};
use iot_pubsub::publisher::{queue_command, run};

fn main() -> ExitCode {
    cli::main(|cli: Cli| match cli.command {
        None => {
            logging::init(cli.publish.log.verbosity());
            run::run(
                &cli.publish.into_config()?,
                cli::find_changed_settings::<Cli>,
            )
        }
        Some(Command::Check(args)) => {
            logging::init(args.log.verbosity());
            check::run(&args.into_config("publisher")?)
        }
        Some(Command::Queue(args)) => {
            logging::init(args.log.verbosity());
            queue_command::run(args)
        }
    })
}
