//! Removes passwords from text that quotes what users typed. PURE.

/// Replaces what stands in front of an `@` in an address, `//USER:PASSWORD@HOST` or `USER:PASSWORD@HOST`.
pub fn without_password(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://…@{host}"),
        None if before.contains(':') => match before.split_once('=') {
            Some((flag, _)) if flag.starts_with("--") => format!("{flag}=…@{host}"),
            _ => format!("…@{host}"),
        },
        None => text.to_owned(),
    }
}

/// Applies [`without_password`] to each of these values in a text.
pub fn without_passwords<'a>(text: &str, values: impl IntoIterator<Item = &'a str>) -> String {
    let mut shown = text.to_owned();
    for value in values {
        let safe = without_password(value);
        if safe != value {
            shown = shown.replace(value, &safe);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_password_goes() {
        for (text, shown) in [
            ("http://me:pw@host:1", "http://…@host:1"),
            ("http://pw@host", "http://…@host"),
            ("http://me:p@w/x y'@host", "http://…@host"),
            ("me:pw@host", "…@host"),
            ("--proxyy=http://me:pw@host", "--proxyy=http://…@host"),
            ("--proxyy=me:pw@host", "--proxyy=…@host"),
            ("--proxy <URL>", "--proxy <URL>"),
            ("someone@host", "someone@host"),
            ("a/b:c", "a/b:c"),
        ] {
            assert_eq!(without_password(text), shown);
        }
        let error = "invalid value 'http://me:p w@h' for '--port <N>'";
        assert_eq!(
            without_passwords(error, ["http://me:p w@h", "--port <N>"]),
            "invalid value 'http://…@h' for '--port <N>'"
        );
    }
}
