//! Names with placeholders, such as `site/{hostname}/temperature`, so that many devices can have the same
//! configuration. PURE.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placeholder {
    Hostname,
    ClientId,
    MachineId,
    /// A variable of the environment.
    Variable(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameTemplate {
    parts: Vec<Part>,
}

const KNOWN: &str =
    "known are {hostname}, {client-id}, {machine-id} and {env:NAME}; a brace is {{ or }}";

impl NameTemplate {
    /// The error completes "FLAG VALUE …".
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some((name, after)) = from.strip_prefix('{').and_then(split_at_close) {
                let value = Placeholder::parse(name)
                    .ok_or_else(|| format!("has {{{name}}}, which means nothing; {KNOWN}"))?;
                parts.push(Part::Text(std::mem::take(&mut literal)));
                parts.push(Part::Value(value));
                rest = after;
            } else {
                return Err(format!("has a lone brace; {KNOWN}"));
            }
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        Ok(Self { parts })
    }

    /// Asks for each value in order; an error ends it.
    pub(super) fn expand<E>(
        &self,
        mut find_value: impl FnMut(&Placeholder) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Value(value) => name.push_str(&find_value(value)?),
            }
        }
        Ok(name)
    }
}

impl Placeholder {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "hostname" => Some(Self::Hostname),
            "client-id" => Some(Self::ClientId),
            "machine-id" => Some(Self::MachineId),
            _ => {
                let variable = name.strip_prefix("env:")?;
                let is_name = !variable.is_empty() && !variable.contains(['=', '\0']);
                is_name.then(|| Self::Variable(variable.to_owned()))
            }
        }
    }
}

/// A brace before the closing one means that the first was meant to be a character.
fn split_at_close(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.split_once('}')?;
    (!name.contains('{')).then_some((name, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(text: &str) -> Result<String, String> {
        NameTemplate::parse(text)?.expand(|value| match value {
            Placeholder::Hostname => Ok("host".into()),
            Placeholder::ClientId => Ok("id".into()),
            Placeholder::MachineId => Ok("machine".into()),
            Placeholder::Variable(name) if name == "SITE" => Ok("{x}".into()),
            Placeholder::Variable(name) => Err(format!("no {name}")),
        })
    }

    #[test]
    fn every_placeholder_is_replaced_once_and_double_braces_are_braces() {
        for (text, name) in [
            ("", ""),
            ("a/b", "a/b"),
            ("{hostname}", "host"),
            ("a/{client-id}/{machine-id}/{hostname}", "a/id/machine/host"),
            // What a value contains is not expanded again.
            ("{env:SITE}/{{hostname}}", "{x}/{hostname}"),
            ("{{{hostname}}}", "{host}"),
            ("}}{{", "}{"),
            ("$share/{hostname}/+/#", "$share/host/+/#"),
        ] {
            assert_eq!(expand(text), Ok(name.into()), "{text}");
        }
    }

    #[test]
    fn an_unknown_name_or_a_lone_brace_is_an_error_that_lists_the_names() {
        for (text, cause) in [
            ("{host}", "{host}, which"),
            ("{}", "{}, which"),
            ("{env:}", "{env:}, which"),
            ("{env:A=B}", "{env:A=B}, which"),
            ("{HOSTNAME}", "{HOSTNAME}, which"),
            ("{", "lone brace"),
            ("a}", "lone brace"),
            ("{hostname", "lone brace"),
            ("{a{hostname}", "lone brace"),
            ("{hostname}}", "lone brace"),
        ] {
            let why = expand(text).unwrap_err();
            assert!(why.contains(cause), "{text}: {why}");
            for name in [
                "{hostname}",
                "{client-id}",
                "{machine-id}",
                "{env:NAME}",
                "{{",
            ] {
                assert!(why.contains(name), "{text}: {why}");
            }
        }
        assert_eq!(expand("{env:OTHER}"), Err("no OTHER".into()));
    }

    proptest! {
        #[test]
        fn any_text_with_its_braces_doubled_is_that_text(text in "[a-z/{}]{0,20}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(expand(&doubled), Ok(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z:{}-]{0,20}|\\PC{0,20}") {
            let _ = expand(&text);
        }
    }
}
