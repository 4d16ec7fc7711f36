//! The proxy of the flag, or of the environment, which can exempt hosts.

use std::env;

use crate::common::fault::Fault;
use crate::common::transport::proxy::{self, Proxy};

const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const EXEMPT: [&str; 2] = ["NO_PROXY", "no_proxy"];

pub(super) fn find(flag: Option<&str>, host: &str) -> Result<Option<Proxy>, Fault> {
    match flag {
        Some("") => Ok(None),
        Some(text) => parse_proxy(text, "--proxy").map(Some),
        None => {
            let Some((name, text)) = read_variable(PROXY)? else {
                return Ok(None);
            };
            if let Some((name, list)) = read_variable(EXEMPT)? {
                let is_exempt = proxy::is_exempt(&list, host).map_err(|entry| {
                    let cause = "is not an address and the length of its network";
                    Fault::usage(format!("{name}: {entry:?} {cause}"))
                        .with_remedy("write it as 10.0.0.0/8")
                })?;
                if is_exempt {
                    return Ok(None);
                }
            }
            parse_proxy(&text, name).map(Some)
        }
    }
}

fn parse_proxy(text: &str, origin: &'static str) -> Result<Proxy, Fault> {
    Proxy::parse(text, origin).map_err(|why| Fault::usage(format!("{origin} {why}")))
}

fn read_variable(names: [&'static str; 2]) -> Result<Option<(&'static str, String)>, Fault> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let Some((name, value)) = names.into_iter().find_map(|name| Some((name, set(name)?))) else {
        return Ok(None);
    };
    match value.into_string() {
        Ok(value) => Ok(Some((name, value))),
        Err(_) => Err(Fault::usage(format!("{name} is not UTF-8 text"))
            .with_remedy("set it again, unset it, or give --proxy")),
    }
}
