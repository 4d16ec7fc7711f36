//! The `publisher` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::{check, cli};
use iot_pubsub::publisher::args::{Cli, Command};
use iot_pubsub::publisher::{queue_command, run};

fn main() -> ExitCode {
    cli::main(|cli: Cli| match cli.command {
        None => {
            cli.publish.log.init_log();
            run::run(
                &cli.publish.into_config()?,
                cli::find_changed_settings::<Cli>,
            )
        }
        Some(Command::Check(args)) => {
            args.log.init_log();
            check::run(&args.into_config("publisher")?)
        }
        Some(Command::Status(args)) => {
            args.log.init_log();
            check::status::run(&args, "publisher")
        }
        Some(Command::Queue(args)) => {
            args.log.init_log();
            queue_command::run(args)
        }
    })
}
