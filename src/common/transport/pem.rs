//! Reads one file: PEM, or a secret.

use std::path::Path;

use openssl::x509::X509;

use crate::common::fault::{Exit, Fault};
use crate::common::small_file;

/// Reads a file that holds one secret; the line end that editors add is not part of it.
///
/// # Errors
///
/// A fault that names the flag and the file.
pub fn read_secret(path: &Path, flag: &str) -> Result<String, Fault> {
    let bytes = read(path, flag)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| config(flag, path, format_args!("is not UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains('\0') {
        return Err(config(
            flag,
            path,
            format_args!("must hold one line of text"),
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn certificates(path: &Path, flag: &str) -> Result<Vec<X509>, Fault> {
    let pem = read(path, flag)?;
    if contains(&pem, "BEGIN TRUSTED CERTIFICATE-----") {
        let why = "holds a TRUSTED CERTIFICATE, which is OpenSSL's own form; write it anew with openssl x509";
        return Err(config(flag, path, format_args!("{why}")));
    }
    let certs = X509::stack_from_pem(&pem).unwrap_or_default();
    if certs.is_empty() {
        let why = if contains(&pem, "PRIVATE KEY-----") && flag == "--cafile" {
            "is a private key, not a certificate; give the file of the CA"
        } else if contains(&pem, "PRIVATE KEY-----") {
            "is a private key, not a certificate; are --cert and --key swapped?"
        } else {
            "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        };
        return Err(config(flag, path, format_args!("{why}")));
    }
    Ok(certs)
}

/// Whether systemd has handed this file to the service (`LoadCredential`): it is root's then, and
/// an access control list, which shows as the group's right to read, lets only the service's user
/// at it.
pub(super) fn is_credential(path: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .and_then(|dir| canonical(Path::new(&dir)))
        .zip(canonical(path))
        .is_some_and(|(dir, file)| file.starts_with(dir))
}

pub(super) fn read(path: &Path, flag: &str) -> Result<Vec<u8>, Fault> {
    small_file::read(path).map_err(|e| unreadable(path, flag, &e))
}

pub(super) fn unreadable(path: &Path, flag: &str, error: &std::io::Error) -> Fault {
    Fault::permanent(
        Exit::NoInput,
        format!(
            "{}: {flag} cannot be read: {error}; check the path and its permissions",
            path.display()
        ),
    )
}

pub(super) fn config(flag: &str, path: &Path, why: std::fmt::Arguments<'_>) -> Fault {
    Fault::permanent(Exit::Config, format!("{}: {flag} {why}", path.display()))
}

pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
