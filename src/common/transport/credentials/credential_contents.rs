//! What certificate and CA files held, to compare with what they hold later. The key need not be compared: it belongs
//! to the certificate.

use openssl::x509::X509;

use super::TlsCredentials;

/// Certificates in DER.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialContents {
    pub chain: Vec<Vec<u8>>,
    pub authorities: Vec<Vec<u8>>,
}

impl CredentialContents {
    pub fn of(credentials: &TlsCredentials) -> Self {
        let client = credentials.client.as_ref();
        let authorities = credentials.authorities.as_ref();
        Self {
            chain: client.map_or_else(Vec::new, |client| encode(&client.chain)),
            authorities: authorities.map_or_else(Vec::new, |all| encode(&all.certificates)),
        }
    }
}

fn encode(certificates: &[X509]) -> Vec<Vec<u8>> {
    // Encoding fails without memory only.
    let encode = |certificate: &X509| certificate.to_der().unwrap_or_default();
    certificates.iter().map(encode).collect()
}
