//! The `publisher` command: parse, run, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use iot_pubsub::common::cli::{self, Parsed};
use iot_pubsub::common::escape::one_line;
use iot_pubsub::common::fault::{Exit, Fault};
use iot_pubsub::common::{client, logging};
use iot_pubsub::publisher::args::PublisherArgs;
use iot_pubsub::publisher::run;

fn main() -> ExitCode {
    client::init();
    let exit = publish().unwrap_or_else(|fault| {
        eprintln!("publisher: {}", one_line(&fault.message));
        fault.exit
    });
    ExitCode::from(exit.code())
}

fn publish() -> Result<Exit, Fault> {
    match cli::parse::<PublisherArgs>(std::env::args_os())? {
        Parsed::Show(text) => {
            // A reader that has seen enough is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(Exit::Success)
        }
        Parsed::Run(args) => {
            logging::init(args.verbosity());
            run::run(&args.check()?)
        }
    }
}
