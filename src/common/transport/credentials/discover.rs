//! Finds CA, certificate and key in one directory, under plain names or those that the AWS console gives.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::tls_credentials::CertKeyPaths;
use crate::common::fault::{Exit, Fault};

/// What one of the files may be called: a plain name, or the suffix that the console adds to a
/// certificate's identifier.
struct FileNames {
    description: &'static str,
    plain: &'static [&'static str],
    suffix: Option<&'static str>,
}

const CA: FileNames = FileNames {
    description: "CA file (AmazonRootCA1.pem or ca.pem)",
    plain: &["AmazonRootCA1.pem", "ca.pem"],
    suffix: None,
};
const CERT: FileNames = FileNames {
    description: "certificate (*-certificate.pem.crt or device.pem.crt)",
    plain: &["device.pem.crt"],
    suffix: Some("-certificate.pem.crt"),
};
const KEY: FileNames = FileNames {
    description: "private key (*-private.pem.key or private.pem.key)",
    plain: &["private.pem.key"],
    suffix: Some("-private.pem.key"),
};

impl FileNames {
    fn matches(&self, name: &str) -> bool {
        let has = |suffix: &str| name.len() > suffix.len() && name.ends_with(suffix);
        self.plain.contains(&name) || self.suffix.is_some_and(has)
    }
}

/// Looks for the CA file if `cafile`, for certificate and key if `pair`. It is a fault if one of
/// them is missing or there more than once.
pub(super) fn find(
    dir: &Path,
    cafile: bool,
    pair: bool,
) -> Result<(Option<PathBuf>, Option<CertKeyPaths>), Fault> {
    let entries = fs::read_dir(dir).map_err(|e| {
        let exit = match e.kind() {
            ErrorKind::NotADirectory => Exit::Config,
            _ => Exit::NoInput,
        };
        let dir = dir.display();
        let message = format!("{dir}: --certs cannot be read: {e}; check the path");
        Fault::permanent(exit, message)
    })?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.flat_map(OsString::into_string).collect();
    names.sort();
    let find_one = |wanted: &FileNames| {
        let matching: Vec<&String> = names.iter().filter(|name| wanted.matches(name)).collect();
        let has = match matching[..] {
            [one] => return Ok(dir.join(one)),
            [] => "has no",
            _ => "has more than one",
        };
        let cause = format!("{has} {}", wanted.description);
        Err(discovery_fault(dir, &cause, &names))
    };
    let cafile = cafile.then(|| find_one(&CA)).transpose()?;
    let pair = pair.then(|| {
        let (cert, key) = (find_one(&CERT)?, find_one(&KEY)?);
        Ok(CertKeyPaths { cert, key })
    });
    Ok((cafile, pair.transpose()?))
}

fn discovery_fault(dir: &Path, cause: &str, names: &[String]) -> Fault {
    const SHOWN: usize = 12;
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let found = match names {
        [] => "nothing".to_owned(),
        _ => names[..names.len().min(SHOWN)].join(", ") + more,
    };
    let dir = dir.display();
    let remedy = "rename or move files, or give --cafile, --cert and --key";
    let message = format!("{dir}: --certs {cause}; found: {found}; {remedy}");
    Fault::permanent(Exit::Config, message)
}
