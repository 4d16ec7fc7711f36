//! The form of the log before the command line has been parsed, for its errors. PURE.

use std::ffi::{OsStr, OsString};

use crate::common::runtime::logging::LogFormat;

const FLAG: &str = "--log-format";

/// As the last `--log-format` in `args` says, or else the variable `IOT_LOG_FORMAT`. What follows `--exec` is not ours.
pub(super) fn find_log_format(args: &[OsString], variable: Option<&OsStr>) -> LogFormat {
    let is_ours = |arg: &&OsString| *arg != "--exec" && *arg != "--";
    let mut form = variable.map(OsStr::to_owned);
    let mut args = args.iter().take_while(is_ours);
    while let Some(arg) = args.next() {
        if arg == FLAG {
            form = args.next().cloned().or(form);
        } else if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix(FLAG))
            && let Some(value) = value.strip_prefix('=')
        {
            form = Some(value.into());
        }
    }
    match form {
        Some(form) if form == "json" => LogFormat::Json,
        _ => LogFormat::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_flag_counts_and_then_the_variable() {
        let json = Some("json");
        for (line, variable, is_json) in [
            ("publisher", None, false),
            ("publisher", json, true),
            ("publisher --log-format json", None, true),
            ("publisher --log-format=json -t", None, true),
            ("publisher --log-format text", json, false),
            ("publisher --log-format json --log-format=text", None, false),
            ("publisher --exec x --log-format json", None, false),
            ("publisher --log-format", json, true),
            ("publisher --log-formats=json", None, false),
        ] {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            let format = find_log_format(&args, variable.map(OsStr::new));
            assert_eq!(format == LogFormat::Json, is_json, "{line}");
        }
    }
}
