//! A JSON pointer (RFC 6901). PURE.

use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(pub String);

impl FromStr for JsonPointer {
    type Err = &'static str;

    fn from_str(pointer: &str) -> Result<Self, &'static str> {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err("a JSON pointer starts with /, as in /temperature or /values/0");
        }
        let mut after_tildes = pointer.split('~').skip(1);
        if after_tildes.any(|rest| !rest.starts_with(['0', '1'])) {
            return Err("in a JSON pointer ~ is written ~0, and / in a name ~1");
        }
        Ok(Self(pointer.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_pointer_is_refused() {
        for (pointer, why) in [
            ("temperature", "a JSON pointer starts with /"),
            ("/a~", "in a JSON pointer ~ is written ~0"),
            ("/a~2b", "in a JSON pointer ~ is written ~0"),
        ] {
            let error = pointer.parse::<JsonPointer>().unwrap_err();
            assert!(error.starts_with(why), "{pointer}: {error}");
        }
    }
}
