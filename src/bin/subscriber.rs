//! The `subscriber` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::runtime::logging;
use iot_pubsub::common::{check, cli};
use iot_pubsub::subscriber::args::{Cli, Command};
use iot_pubsub::subscriber::run;

fn main() -> ExitCode {
    cli::main(|cli: Cli| match cli.command {
        None => {
            logging::init(cli.subscribe.log.verbosity());
            run::run(
                &cli.subscribe.into_config()?,
                cli::find_changed_settings::<Cli>,
            )
        }
        Some(Command::Check(args)) => {
            logging::init(args.log.verbosity());
            check::run(&args.into_config("subscriber")?)
        }
    })
}
