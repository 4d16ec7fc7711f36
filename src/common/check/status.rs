//! The command `status`: whether a running program is well, by its metrics file.

use std::io::{self, Write as _};
use std::path::Path;

use crate::common::cli::metrics_args::StatusArgs;
use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault};
use crate::common::metrics::exposition::ParsedMetrics;
use crate::common::metrics::health::Health;
use crate::common::metrics::metric_family::to_f64;
use crate::common::runtime::clock::unix_ms;
use crate::common::runtime::escaping_writer::EscapingWriter;
use crate::common::runtime::small_file;
use crate::common::runtime::stdio;

/// `program` is the one that has written the file.
pub fn run(args: &StatusArgs, program: &str) -> anyhow::Result<Exit> {
    stdio::check_stdout("the result is printed there")?;
    let metrics = read(&args.metrics, program)?;
    let (health, exit) = Health::of(&metrics, to_f64(unix_ms()) / 1e3);
    let line = if args.json {
        serde_json::to_string(&health)?
    } else {
        one_line(&health.to_text())
    };
    match EscapingWriter::stdout(stdio::stdout()).write_all(format!("{line}\n").as_bytes()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("standard output cannot be written: {cause}");
            let worst = if health.ok { Exit::Io } else { exit };
            Err(Fault::permanent(worst, message).into())
        }
        _ => Ok(exit),
    }
}

fn read(path: &Path, program: &str) -> Result<ParsedMetrics, Fault> {
    let bytes = small_file::read(path).map_err(|error| {
        let message = format!("{}: --metrics cannot be read: {error}", path.display());
        let remedy = format!("does {program} run, with the same --metrics?");
        Fault::permanent(Exit::NoInput, message).with_remedy(remedy)
    })?;
    let text = String::from_utf8_lossy(&bytes.bytes);
    let parsed = ParsedMetrics::parse(&text).filter(|parsed| parsed.program == program);
    parsed.ok_or_else(|| {
        let message = format!(
            "{}: --metrics is no file that {program} has written",
            path.display()
        );
        let remedy = format!("give the file of {program} --metrics");
        Fault::permanent(Exit::NoInput, message).with_remedy(remedy)
    })
}
