//! Replaces the placeholders in topics and in the client identifier by the values of this machine.

use std::env;

use super::name_template::{NameTemplate, Placeholder};
use crate::common::escape::quoted;
use crate::common::fault::Fault;
use crate::common::runtime::host_identity;

#[derive(Clone, Copy, Debug)]
pub(super) struct NameExpander<'a> {
    /// `None` while the client identifier itself is expanded.
    pub(super) client_id: Option<&'a str>,
}

impl NameExpander<'_> {
    /// `flag` is for the error.
    pub(super) fn expand(self, flag: &str, text: String) -> Result<String, Fault> {
        if !text.contains(['{', '}']) {
            return Ok(text);
        }
        let fault = |why: String| Fault::usage(format!("{flag} {} {why}", quoted(&text)));
        let template = NameTemplate::parse(&text).map_err(fault)?;
        template
            .expand(|value| self.find_value(value))
            .map_err(fault)
    }

    fn find_value(self, value: &Placeholder) -> Result<String, String> {
        let has_no_value =
            |name: &str, why: String| format!("has {{{name}}}, for which there is no value: {why}");
        match value {
            Placeholder::Hostname => {
                host_identity::hostname().map_err(|why| has_no_value("hostname", why))
            }
            Placeholder::MachineId => {
                host_identity::machine_id().map_err(|why| has_no_value("machine-id", why))
            }
            Placeholder::ClientId => self.client_id.map(str::to_owned).ok_or_else(|| {
                "has {client-id}, which is this identifier itself; use {hostname}, {machine-id} or {env:NAME}"
                    .into()
            }),
            Placeholder::Variable(name) => {
                let why = match env::var(name) {
                    Ok(value) if !value.is_empty() => return Ok(value),
                    Ok(_) => "is empty; give it a value",
                    Err(env::VarError::NotPresent) => "is not set; set it",
                    Err(env::VarError::NotUnicode(_)) => "is not UTF-8 text",
                };
                Err(has_no_value(
                    &format!("env:{name}"),
                    format!("the variable {name} {why}"),
                ))
            }
        }
    }
}
