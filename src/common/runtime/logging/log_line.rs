//! The forms of a line of the log: text, JSON, and for the journal of systemd. PURE.

use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LineForm {
    #[default]
    Text,
    Json,
    /// With the priority of sd-daemon(3), and without the time, which the journal adds.
    Journal,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct LogLine<'a> {
    /// RFC 3339, in UTC.
    pub(super) ts: String,
    #[serde(serialize_with = "lower_case")]
    pub(super) level: &'a str,
    pub(super) program: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_id: Option<&'a str>,
    /// One line.
    pub(super) msg: &'a str,
    /// The exit code that the line is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<i64>,
}

fn lower_case<S: serde::Serializer>(level: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&level.to_ascii_lowercase())
}

impl LogLine<'_> {
    pub(super) fn render(&self, form: LineForm) -> String {
        let Self { ts, level, msg, .. } = self;
        match form {
            LineForm::Text => format!("{ts} {level} {msg}"),
            // Cannot fail for text and numbers.
            LineForm::Json => serde_json::to_string(self).unwrap_or_default(),
            LineForm::Journal => format!("<{}>{msg}", self.priority()),
        }
    }

    /// As in syslog(3): error, warning, info, debug.
    fn priority(&self) -> u8 {
        match self.level {
            "ERROR" => 3,
            "WARN" => 4,
            "INFO" => 6,
            _ => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: &'static str, code: Option<i64>) -> LogLine<'static> {
        LogLine {
            ts: "2026-01-31T08:00:00.250Z".into(),
            level,
            program: "publisher",
            client_id: code.map(|_| "pump-7"),
            msg: "h: \"closed\"",
            code,
        }
    }

    #[test]
    fn each_form_has_what_its_reader_needs() {
        let text = "2026-01-31T08:00:00.250Z WARN h: \"closed\"";
        assert_eq!(line("WARN", Some(69)).render(LineForm::Text), text);
        let json = r#"{"ts":"2026-01-31T08:00:00.250Z","level":"warn","program":"publisher","client_id":"pump-7","msg":"h: \"closed\"","code":69}"#;
        assert_eq!(line("WARN", Some(69)).render(LineForm::Json), json);
        let json = r#"{"ts":"2026-01-31T08:00:00.250Z","level":"info","program":"publisher","msg":"h: \"closed\""}"#;
        assert_eq!(line("INFO", None).render(LineForm::Json), json);
        for (level, prefix) in [
            ("ERROR", "<3>h: "),
            ("WARN", "<4>h: "),
            ("INFO", "<6>h: "),
            ("DEBUG", "<7>h: "),
            ("TRACE", "<7>h: "),
        ] {
            let rendered = line(level, None).render(LineForm::Journal);
            assert!(rendered.starts_with(prefix), "{rendered}");
        }
    }
}
