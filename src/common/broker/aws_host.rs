//! Recognises AWS hosts by their names, and which of them is the endpoint for devices. PURE.
//!
//! Source: AWS IoT Developer Guide, "AWS IoT Core endpoints".

pub fn is_aws(host: &str) -> bool {
    labels(host).is_some()
}

/// The labels of an AWS host name before `amazonaws.com` or `amazonaws.com.cn`.
fn labels(host: &str) -> Option<Vec<String>> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let before = host
        .strip_suffix(".amazonaws.com.cn")
        .or_else(|| host.strip_suffix(".amazonaws.com"))?;
    Some(before.split('.').map(ToOwned::to_owned).collect())
}

/// A hint if the host is one of AWS but not an endpoint for devices.
pub fn hint(host: &str) -> Option<String> {
    const ASK: &str = "aws iot describe-endpoint --endpoint-type iot:Data-ATS prints the right one";
    let labels = labels(host)?;
    let Some(at) = labels.iter().position(|label| label == "iot") else {
        return Some(format!("{host} is not an AWS IoT endpoint: {ASK}"));
    };
    match &labels[..at] {
        [] => Some(format!(
            "{host} is for managing things, not for devices: {ASK}"
        )),
        [prefix] if prefix.ends_with("-ats") => None,
        [_, ats] if ats == "ats" => None,
        [prefix] if prefix != "data" => {
            let rest = &host[prefix.len().min(host.len())..];
            Some(format!(
                "{host} is the old kind of endpoint, whose certificate today's CA files do not \
                 cover: use {prefix}-ats{rest}"
            ))
        }
        _ => Some(format!("{host} is not the endpoint for messages: {ASK}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_are_no_device_endpoint_get_a_hint() {
        for right in [
            "a-ats.iot.eu-west-1.amazonaws.com",
            "a.ats.iot.cn-north-1.amazonaws.com.cn",
            "broker.example",
        ] {
            assert_eq!(hint(right), None, "{right}");
        }
        let old = hint("a1b2.iot.eu-west-1.amazonaws.com").unwrap();
        let remedy = "use a1b2-ats.iot.eu-west-1.amazonaws.com";
        assert!(old.contains(remedy), "{old}");
        for (prefix, part) in [
            ("iot.eu-west-1", "managing things"),
            (
                "a.credentials.iot.eu-west-1",
                "not the endpoint for messages",
            ),
            ("data.iot.eu-west-1", "not the endpoint for messages"),
            ("s3", "not an AWS IoT endpoint"),
        ] {
            let hint = hint(&format!("{prefix}.amazonaws.com")).unwrap();
            assert!(hint.contains(part), "{hint}");
            assert!(hint.contains("describe-endpoint"), "{hint}");
        }
    }
}
