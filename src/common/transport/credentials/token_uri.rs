//! The URI of a key in a PKCS#11 token (RFC 7512), and the PEM block in which `pkcs11-provider` keeps it. PURE.

use data_encoding::BASE64;

use super::der;
use super::pem;

const LABEL: &str = "PKCS#11 PROVIDER URI";
/// What stands before the URI in the block.
const DESCRIPTION: &str = "PKCS#11 Provider URI v1.0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenUri(String);

impl TokenUri {
    pub(super) fn in_pem(text: &str) -> Option<Self> {
        let blocks = pem::blocks(text.as_bytes());
        let content = blocks.first()?.content.as_ref().ok()?;
        der::second_text(content).map(Self)
    }

    /// The part after the question mark may hold the PIN.
    pub(super) fn without_pin(&self) -> &str {
        self.0.split('?').next().unwrap_or_default()
    }

    pub(super) fn has_pin(&self) -> bool {
        self.0[self.without_pin().len()..].contains("pin-")
    }

    /// Any private key of the token, with the same PIN.
    pub(super) fn any_key(&self) -> Self {
        let pin = &self.0[self.without_pin().len()..];
        let attributes = self.without_pin().trim_start_matches("pkcs11:").split(';');
        let of_key = ["id=", "object=", "type="];
        let kept = attributes
            .filter(|part| !part.is_empty() && !of_key.iter().any(|name| part.starts_with(name)));
        let kept: Vec<&str> = kept.chain(["type=private"]).collect();
        Self(format!("pkcs11:{}{pin}", kept.join(";")))
    }

    pub(super) fn to_pem(&self) -> String {
        let content = der::two_texts(DESCRIPTION, &self.0);
        let base64 = BASE64.encode(&content);
        format!("-----BEGIN {LABEL}-----\n{base64}\n-----END {LABEL}-----\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn another_key_of_the_token_is_asked_for_with_the_same_pin() {
        let uri = TokenUri("pkcs11:token=dev;id=%01;object=k;type=private?pin-value=1".into());
        assert_eq!(uri.any_key().0, "pkcs11:token=dev;type=private?pin-value=1");
        assert_eq!(
            uri.without_pin(),
            "pkcs11:token=dev;id=%01;object=k;type=private"
        );
        assert!(uri.has_pin() && !TokenUri("pkcs11:object=pin-1".into()).has_pin());
        assert_eq!(TokenUri(String::new()).any_key().0, "pkcs11:type=private");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "[a-z=;:?%]{0,300}") {
            let uri = TokenUri(text);
            prop_assert_eq!(TokenUri::in_pem(&uri.to_pem()), Some(uri));
        }
    }
}
