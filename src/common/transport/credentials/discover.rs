//! The three files of a device in one directory, under the names that the AWS console gives
//! them when it creates them, or under plain ones.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::Pair;
use crate::common::fault::{Exit, Fault};

/// The files of a directory, as far as they were looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The trusted CAs.
    pub(crate) cafile: Option<PathBuf>,
    /// Certificate and private key.
    pub(crate) pair: Option<Pair>,
}

/// What one of the files may be called: a plain name, or an ending that the console puts
/// behind a certificate's id.
struct Kind {
    what: &'static str,
    plain: &'static [&'static str],
    ending: Option<&'static str>,
}

const CA: Kind = Kind {
    what: "a CA file (AmazonRootCA1.pem or ca.pem)",
    plain: &["AmazonRootCA1.pem", "ca.pem"],
    ending: None,
};
const CERT: Kind = Kind {
    what: "a certificate (*-certificate.pem.crt or device.pem.crt)",
    plain: &["device.pem.crt"],
    ending: Some("-certificate.pem.crt"),
};
const KEY: Kind = Kind {
    what: "a private key (*-private.pem.key or private.pem.key)",
    plain: &["private.pem.key"],
    ending: Some("-private.pem.key"),
};

impl Kind {
    fn fits(&self, name: &str) -> bool {
        let ends = |ending: &str| name.len() > ending.len() && name.ends_with(ending);
        self.plain.contains(&name) || self.ending.is_some_and(ends)
    }
}

/// Looks for the files in a directory: for the CA, for certificate and key.
///
/// # Errors
///
/// A fault that says what is missing or there more than once, and what was found.
pub(crate) fn find(dir: &Path, cafile: bool, pair: bool) -> Result<Found, Fault> {
    let entries = fs::read_dir(dir).map_err(|e| {
        let exit = if e.kind() == std::io::ErrorKind::NotADirectory {
            Exit::Config
        } else {
            Exit::NoInput
        };
        Fault::permanent(
            exit,
            format!(
                "{}: --certs cannot be read: {e}; check the path",
                dir.display()
            ),
        )
    })?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let pick = |kind: &Kind| -> Result<PathBuf, Fault> {
        let fitting: Vec<&String> = names.iter().filter(|name| kind.fits(name)).collect();
        match fitting[..] {
            [one] => Ok(dir.join(one)),
            [] => Err(wrong(dir, &format!("has no {}", bare(kind.what)), &names)),
            _ => Err(wrong(
                dir,
                &format!("has more than one {}", bare(kind.what)),
                &names,
            )),
        }
    };
    let mut found = Found::default();
    if cafile {
        found.cafile = Some(pick(&CA)?);
    }
    if pair {
        let (cert, key) = (pick(&CERT)?, pick(&KEY)?);
        found.pair = Some(Pair { cert, key });
    }
    Ok(found)
}

/// Without its article.
fn bare(what: &str) -> &str {
    what.strip_prefix("a ").unwrap_or(what)
}

fn wrong(dir: &Path, why: &str, names: &[String]) -> Fault {
    const MANY: usize = 12;
    let mut found = match names {
        [] => "nothing".to_owned(),
        _ => names[..names.len().min(MANY)].join(", "),
    };
    if names.len() > MANY {
        found += ", …";
    }
    Fault::permanent(
        Exit::Config,
        format!(
            "{}: --certs {why}; found: {found}; rename or move files, or give --cafile, --cert and \
             --key",
            dir.display()
        ),
    )
}
