//! Reads the parts of DER (ITU-T X.690) that errors about a file need: the size of an element, whether a certificate is
//! a CA's (RFC 5280, section 4.2.1.9), how a key is encrypted (RFC 5958, RFC 8018); the key that a PKCS #8 structure
//! contains; and how long a TLS session may be used. PURE.

use zeroize::Zeroizing;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const VISIBLE_STRING: u8 = 0x1a;
/// `extensions [3]` of a certificate.
const EXTENSIONS: u8 = 0xa3;

/// `id-ce-basicConstraints`, 2.5.29.19.
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
/// `id-PBES2`, 1.2.840.113549.1.5.13.
const PBES2: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];

/// `rsaEncryption`, 1.2.840.113549.1.1.1.
const RSA_ENCRYPTION: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `id-ecPublicKey`, 1.2.840.10045.2.1.
const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `parameters [0]` of an `ECPrivateKey`.
const EC_PARAMETERS: u8 = 0xa0;

/// Parts of OpenSSL's `SSL_SESSION` (`ssl/ssl_asn1.c`), each an INTEGER: when it was made, in seconds of Unix time; how long
/// OpenSSL would keep it, and how long the server says that its ticket may be used, in seconds.
const SESSION_TIME: u8 = 0xa1;
const SESSION_TIMEOUT: u8 = 0xa2;
const SESSION_TICKET_LIFETIME: u8 = 0xa9;

/// A private key in the form of its type.
#[derive(PartialEq, Eq)]
pub(super) enum PrivateKeyForm {
    /// `RSAPrivateKey` (RFC 8017).
    Rsa(Zeroizing<Vec<u8>>),
    /// `ECPrivateKey` with the name of its curve (RFC 5915).
    Ec(Zeroizing<Vec<u8>>),
}

/// In seconds, the first of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionLife {
    pub(crate) made_s: u64,
    pub(crate) seconds: u64,
}

/// The sizes of header and content of the first element.
fn sizes(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        short @ 0..=0x7f => Some((2, usize::from(short))),
        long => {
            let count = usize::from(long & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let length = bytes.get(2..2 + count)?;
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            Some((2 + count, length))
        }
    }
}

/// The size in bytes that the SEQUENCE at the beginning should have; none if there is no SEQUENCE.
pub(super) fn sequence_size(bytes: &[u8]) -> Option<usize> {
    let (header, content) = sizes(bytes)?;
    (bytes[0] == SEQUENCE).then_some(header + content)
}

fn elements(mut bytes: &[u8]) -> impl Iterator<Item = Element<'_>> {
    std::iter::from_fn(move || {
        let (header, length) = sizes(bytes)?;
        let tag = *bytes.first()?;
        let content = bytes.get(header..header + length)?;
        bytes = &bytes[header + length..];
        Some(Element { tag, content })
    })
}

/// The content of the SEQUENCE at the beginning.
fn sequence_content(bytes: &[u8]) -> Option<&[u8]> {
    let first = elements(bytes).next()?;
    (first.tag == SEQUENCE).then_some(first.content)
}

pub(super) fn is_ca(certificate: &[u8]) -> bool {
    let constraints = || {
        let to_be_signed = sequence_content(sequence_content(certificate)?)?;
        let extensions = elements(to_be_signed).find(|e| e.tag == EXTENSIONS)?;
        elements(sequence_content(extensions.content)?).find_map(|extension| {
            let mut parts = elements(extension.content);
            let id = parts.next()?;
            if (id.tag, id.content) != (OBJECT_IDENTIFIER, &BASIC_CONSTRAINTS[..]) {
                return None;
            }
            let value = parts.find(|part| part.tag == OCTET_STRING)?;
            elements(sequence_content(value.content)?).next()
        })
    };
    constraints().is_some_and(|first| first.tag == BOOLEAN && first.content != [0])
}

/// Of an `SSL_SESSION` of OpenSSL. Without the server's word OpenSSL's holds.
pub(crate) fn session_life(session: &[u8]) -> Option<SessionLife> {
    let parts = sequence_content(session)?;
    let number = |tag| {
        let part = elements(parts).find(|part| part.tag == tag)?;
        let number = elements(part.content).next().filter(|e| e.tag == INTEGER)?;
        let fits = number.content.len() <= 8;
        let value = |sum, byte: &u8| sum << 8 | u64::from(*byte);
        fits.then(|| number.content.iter().fold(0, value))
    };
    let lifetime = number(SESSION_TICKET_LIFETIME).filter(|seconds| *seconds > 0);
    Some(SessionLife {
        made_s: number(SESSION_TIME)?,
        seconds: lifetime.or_else(|| number(SESSION_TIMEOUT))?,
    })
}

/// The object identifier, in dotted form, of the cipher of an `EncryptedPrivateKeyInfo`.
pub(super) fn encryption(key: &[u8]) -> Option<String> {
    let mut algorithm = elements(sequence_content(sequence_content(key)?)?);
    let id = algorithm.next()?;
    if id.content != PBES2 {
        return dotted(id.content);
    }
    // Key derivation, then encryption.
    let cipher = elements(algorithm.next()?.content).nth(1)?;
    dotted(elements(cipher.content).next()?.content)
}

/// What a `PrivateKeyInfo` (PKCS #8, RFC 5958) contains; none for other types of keys, and for curves without a name.
pub(super) fn private_key_form(key: &[u8]) -> Option<PrivateKeyForm> {
    let mut parts = elements(sequence_content(key)?);
    let (_version, algorithm, key) = (parts.next()?, parts.next()?, parts.next()?);
    if (algorithm.tag, key.tag) != (SEQUENCE, OCTET_STRING) {
        return None;
    }
    let mut algorithm = elements(algorithm.content);
    let (id, parameters) = (algorithm.next()?, algorithm.next()?);
    if id.content == RSA_ENCRYPTION {
        return Some(PrivateKeyForm::Rsa(key.content.to_vec().into()));
    }
    if id.content != EC_PUBLIC_KEY || parameters.tag != OBJECT_IDENTIFIER {
        return None;
    }
    // PKCS #8 has the curve outside of the key, where it is usually left out.
    let curve = element(OBJECT_IDENTIFIER, parameters.content);
    let curve = element(EC_PARAMETERS, &curve);
    let parts = elements(sequence_content(key.content)?).filter(|part| part.tag != EC_PARAMETERS);
    let mut named = Zeroizing::new(Vec::with_capacity(key.content.len() + curve.len() + 16));
    for (at, part) in parts.enumerate() {
        named.extend(&*Zeroizing::new(element(part.tag, part.content)));
        if at == 1 {
            named.extend(&curve);
        }
    }
    Some(PrivateKeyForm::Ec(element(SEQUENCE, &named).into()))
}

/// The text that is the second element of a SEQUENCE.
pub(super) fn second_text(bytes: &[u8]) -> Option<String> {
    let second = elements(sequence_content(bytes)?).nth(1)?;
    String::from_utf8(second.content.to_vec()).ok()
}

/// A SEQUENCE of a `VisibleString` and a `UTF8String`.
pub(super) fn two_texts(first: &str, second: &str) -> Vec<u8> {
    let mut texts = element(VISIBLE_STRING, first.as_bytes());
    texts.extend(element(UTF8_STRING, second.as_bytes()));
    element(SEQUENCE, &texts)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = content.len().to_be_bytes();
    if content.len() <= 0x7f {
        bytes.push(length[length.len() - 1]);
    } else {
        bytes.push(0x80 | 4);
        bytes.extend(&length[length.len() - 4..]);
    }
    bytes.extend(content);
    bytes
}

fn dotted(id: &[u8]) -> Option<String> {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc: u64 = 0;
    for byte in id {
        arc = arc.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let (first, rest) = arcs.split_first()?;
    let root = (first / 40).min(2);
    let text = format!("{root}.{}", first - root * 40);
    Some(rest.iter().fold(text, |text, arc| format!("{text}.{arc}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_those_of_the_header() {
        assert_eq!(sequence_size(&[0x30, 3, 1, 1, 0]), Some(5));
        assert_eq!(sequence_size(&[0x30, 0x82, 1, 2]), Some(4 + 258));
        assert_eq!(sequence_size(&[0x30, 0x80]), None);
        assert_eq!(sequence_size(&[0x31, 3]), None);
        assert_eq!(sequence_size(&[]), None);
    }

    #[test]
    fn object_identifiers_are_read() {
        assert_eq!(dotted(&BASIC_CONSTRAINTS).unwrap(), "2.5.29.19");
        assert_eq!(dotted(&PBES2).unwrap(), "1.2.840.113549.1.5.13");
    }

    #[test]
    fn the_key_in_a_pkcs8_structure_gets_the_name_of_its_curve() {
        let curve = element(OBJECT_IDENTIFIER, &[0x2a, 0x03]);
        let number = [element(INTEGER, &[1]), element(OCTET_STRING, &[7; 32])].concat();
        let point = element(0xa1, &[9; 66]);
        let info = |id: &[u8], key: &[u8]| {
            let algorithm = [element(OBJECT_IDENTIFIER, id), curve.clone()].concat();
            let algorithm = element(SEQUENCE, &algorithm);
            let parts = [
                element(INTEGER, &[0]),
                algorithm,
                element(OCTET_STRING, key),
            ];
            element(SEQUENCE, &parts.concat())
        };
        let named = [&number[..], &element(EC_PARAMETERS, &curve), &point].concat();
        let named = element(SEQUENCE, &named);
        let bare = element(SEQUENCE, &[&number[..], &point].concat());
        let expected = Some(PrivateKeyForm::Ec(named.clone().into()));
        let has_curve = |key: &[u8]| private_key_form(&info(&EC_PUBLIC_KEY, key)) == expected;
        assert!(has_curve(&bare) && has_curve(&named));
        let rsa = Some(PrivateKeyForm::Rsa(bare.clone().into()));
        assert!(private_key_form(&info(&RSA_ENCRYPTION, &bare)) == rsa);
        assert!(private_key_form(&info(&PBES2, &bare)).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (is_ca(&bytes), encryption(&bytes), sequence_size(&bytes), second_text(&bytes));
            let _ = private_key_form(&bytes);
        }
    }
}
