//! The TLS versions and cipher suites that are offered (`--tls-min`, `--ciphers`).

use openssl::error::ErrorStack;
use openssl::ssl::{SslContext, SslContextBuilder, SslMethod, SslRef, SslVersion};

/// What is never offered, whatever a list has: suites without a certificate or without encryption.
const NEVER: &str = ":!aNULL:!eNULL";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsLimits {
    /// At least TLS 1.3, instead of 1.2.
    pub requires_1_3: bool,
    pub ciphers: Option<CipherLists>,
}

/// Cipher suites. A version of TLS that has none in the list is not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherLists {
    /// For TLS 1.2, in the form of OpenSSL.
    tls_1_2: Option<String>,
    tls_1_3: Option<String>,
}

impl CipherLists {
    /// Parses `--ciphers`: OpenSSL's names, separated by `:` or `,`, for both versions of TLS. OpenSSL ignores a
    /// name that it does not know; here it is an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut tls_1_2, mut tls_1_3) = (Vec::new(), Vec::new());
        for name in text.split([':', ',']) {
            let word = name.trim_start_matches(['!', '-', '+']);
            if name.starts_with('@') && name != "@STRENGTH" {
                return Err(format!(
                    "{name:?}: the security level cannot be changed; leave it out"
                ));
            }
            if word == name && is_known(word, SslContextBuilder::set_ciphersuites) {
                tls_1_3.push(name);
            } else if name == "@STRENGTH" || is_known(word, SslContextBuilder::set_cipher_list) {
                tls_1_2.push(name);
            } else {
                return Err(format!(
                    "{name:?} is not a cipher suite of this OpenSSL; see: openssl ciphers"
                ));
            }
        }
        let join = |names: Vec<&str>| (!names.is_empty()).then(|| names.join(":"));
        let tls_1_2 = join(tls_1_2).map(|names| names + NEVER);
        if let Some(list) = &tls_1_2
            && !is_known(list, SslContextBuilder::set_cipher_list)
        {
            return Err("no cipher suite is left of this list".into());
        }
        Ok(Self {
            tls_1_2,
            tls_1_3: join(tls_1_3),
        })
    }
}

impl TlsLimits {
    pub fn check(&self) -> Result<(), String> {
        match &self.ciphers {
            Some(ciphers) if self.requires_1_3 && ciphers.tls_1_3.is_none() => {
                Err("--tls-min 1.3 needs a cipher suite of TLS 1.3 in --ciphers, such as TLS_AES_256_GCM_SHA384".into())
            }
            _ => Ok(()),
        }
    }

    /// Without limits OpenSSL's own lists hold, and the context allows TLS 1.2.
    pub(super) fn apply(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        if self.requires_1_3 {
            ssl.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        }
        let Some(ciphers) = &self.ciphers else {
            return Ok(());
        };
        match &ciphers.tls_1_2 {
            Some(list) => ssl.set_cipher_list(list)?,
            None => ssl.set_min_proto_version(Some(SslVersion::TLS1_3))?,
        }
        match &ciphers.tls_1_3 {
            Some(list) => ssl.set_ciphersuites(list),
            None => ssl.set_max_proto_version(Some(SslVersion::TLS1_2)),
        }
    }

    /// Whether a version of TLS is not offered that otherwise would be.
    pub(super) fn restricts_version(&self) -> bool {
        let lacks_version =
            |lists: &CipherLists| lists.tls_1_2.is_none() || lists.tls_1_3.is_none();
        self.requires_1_3 || self.ciphers.as_ref().is_some_and(lacks_version)
    }
}

fn is_known(name: &str, set: fn(&mut SslContextBuilder, &str) -> Result<(), ErrorStack>) -> bool {
    !name.is_empty()
        && !name.contains(|c: char| c.is_whitespace() || c == '\0')
        && SslContext::builder(SslMethod::tls_client())
            .and_then(|mut builder| set(&mut builder, name))
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_is_split_by_the_version_of_tls() {
        let parsed = CipherLists::parse(
            "TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES256-GCM-SHA384,TLS_AES_128_GCM_SHA256",
        );
        let parsed = parsed.unwrap();
        let suites = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
        assert_eq!(parsed.tls_1_3.as_deref(), Some(suites));
        let older = parsed.tls_1_2.unwrap();
        assert!(older.starts_with("ECDHE-RSA-AES256-GCM-SHA384:"), "{older}");
        let only = CipherLists::parse("HIGH:!SHA1:@STRENGTH").unwrap();
        assert_eq!(only.tls_1_3, None);
        assert!(
            TlsLimits {
                requires_1_3: true,
                ciphers: Some(only)
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn an_unknown_name_is_named_and_a_server_without_certificate_is_never_accepted() {
        for (list, named) in [
            ("HIGH:AES256-NONE", "AES256-NONE"),
            ("tls_aes_256_gcm_sha384", "tls_aes_256_gcm_sha384"),
            ("HIGH::LOW2", "\"\""),
            ("", "\"\""),
            ("HIGH:@SECLEVEL=0", "@SECLEVEL=0"),
            ("!NONSENSE:HIGH", "NONSENSE"),
            ("a b", "a b"),
            ("aNULL", "no cipher suite is left"),
            ("ADH-AES256-GCM-SHA384", "no cipher suite is left"),
        ] {
            let why = CipherLists::parse(list).unwrap_err();
            assert!(why.contains(named), "{list}: {why}");
        }
    }
}
