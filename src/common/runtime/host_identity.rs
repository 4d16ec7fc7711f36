//! What distinguishes this machine from others that have the same configuration.

use std::path::Path;

use super::small_file;

const MACHINE_ID: &str = "/etc/machine-id";

/// The error is a cause without the subject.
pub fn hostname() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|e| format!("the host name: {e}"))?;
    match name.into_string() {
        Ok(name) if !name.is_empty() => Ok(name),
        Ok(_) => Err("the host name: is not set".into()),
        Err(_) => Err("the host name: is not UTF-8 text".into()),
    }
}

/// Before the first boot is complete the file is missing, empty or says `uninitialized` (machine-id(5)).
pub fn machine_id() -> Result<String, String> {
    let content = small_file::read(Path::new(MACHINE_ID));
    let content = content.map_err(|e| format!("{MACHINE_ID}: cannot be read: {e}"))?;
    let id = content.bytes.trim_ascii();
    match std::str::from_utf8(id) {
        Ok(id) if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(id.to_owned())
        }
        _ => Err(format!(
            "{MACHINE_ID}: does not contain 32 hexadecimal digits"
        )),
    }
}
