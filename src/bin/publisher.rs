//! The `publisher` command: parse, run, exit code.

use std::process::ExitCode;

use iot_pubsub::common::{cli, logging};
use iot_pubsub::publisher::args::PublisherArgs;
use iot_pubsub::publisher::run;

fn main() -> ExitCode {
    cli::main("publisher", |args: PublisherArgs| {
        logging::init(args.verbosity());
        run::run(&args.check()?)
    })
}
