//! Certificate, key and CA files: where they are, whether they are good, and what they hold.

pub(crate) mod certificates;
pub(crate) mod der;
pub(crate) mod discover;
pub mod files;
pub(crate) mod foreign_formats;
pub(crate) mod key;
pub(crate) mod pem;
pub(crate) mod presented;
pub(crate) mod trust;
