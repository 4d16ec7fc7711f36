//! The proxy of the flag, or of the environment, which can exempt hosts.

use std::env;

use log::warn;

use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::Fault;
use crate::common::transport::proxy::{self, ProxyUrl};

const PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const EXEMPT: [&str; 2] = ["NO_PROXY", "no_proxy"];

pub(super) fn find(flag: Option<&str>, endpoint: &Endpoint) -> Result<Option<ProxyUrl>, Fault> {
    let proxy = match flag.filter(|text| !text.is_empty()) {
        Some(_) if endpoint.unix_socket.is_some() => {
            return Err(Fault::usage(
                "--proxy has no use with a Unix socket; leave it out",
            ));
        }
        // The variables are for connections to other machines.
        _ if endpoint.unix_socket.is_some() => None,
        _ => find_any(flag, &endpoint.host)?,
    };
    if let (Some(proxy), Some(zone)) = (&proxy, &endpoint.zone) {
        let message = format!(
            "--endpoint {endpoint}: the proxy of {} does not know the network interface {zone} of this machine",
            proxy.origin
        );
        return Err(Fault::usage(message).with_remedy("connect without a proxy: --proxy ''"));
    }
    Ok(proxy)
}

fn find_any(flag: Option<&str>, host: &str) -> Result<Option<ProxyUrl>, Fault> {
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
            match parse_proxy(&text, name) {
                // Desktops set it for all programs, also to proxies that are not supported here.
                Err(fault) if name.eq_ignore_ascii_case("ALL_PROXY") => {
                    warn!("{fault}; connecting without a proxy");
                    Ok(None)
                }
                proxy => proxy.map(Some),
            }
        }
    }
}

fn parse_proxy(text: &str, origin: &'static str) -> Result<ProxyUrl, Fault> {
    ProxyUrl::parse(text, origin).map_err(|why| Fault::usage(format!("{origin} {why}")))
}

fn read_variable<const N: usize>(
    names: [&'static str; N],
) -> Result<Option<(&'static str, String)>, Fault> {
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
