//! The `subscriber` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::{check, cli};
use iot_pubsub::subscriber::args::{Cli, Command};
use iot_pubsub::subscriber::run;

fn main() -> ExitCode {
    cli::main(|cli: Cli| match cli.command {
        None => {
            cli.subscribe.log.init_log();
            run::run(
                &cli.subscribe.into_config()?,
                cli::find_changed_settings::<Cli>,
            )
        }
        Some(Command::Check(args)) => {
            args.log.init_log();
            check::run(&args.into_config("subscriber")?)
        }
        Some(Command::Status(args)) => {
            args.log.init_log();
            check::status::run(&args, "subscriber")
        }
    })
}
