//! The `subscriber` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::{cli, logging};
use iot_pubsub::subscriber::args::SubscriberArgs;
use iot_pubsub::subscriber::run;

fn main() -> ExitCode {
    cli::main("subscriber", |args: SubscriberArgs| {
        logging::init(args.verbosity());
        run::run(&args.check()?)
    })
}
