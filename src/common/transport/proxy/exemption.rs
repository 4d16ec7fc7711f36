//! The hosts that `NO_PROXY` exempts from a proxy. It has no standard; it is read as curl does. PURE.

use std::net::IpAddr;

/// Whether `NO_PROXY` names this host, a domain above it, or `*`. The error is an entry that begins
/// like a network and is none.
pub fn is_exempt(no_proxy: &str, host: &str) -> Result<bool, String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let entries = no_proxy
        .split([',', ' '])
        .map(|entry| entry.trim().trim_end_matches('.').to_ascii_lowercase())
        .filter(|entry| !entry.is_empty());
    let mut exempt = false;
    for entry in entries {
        let network = IpNetwork::parse(&entry)?;
        exempt |= match (entry.as_str(), address) {
            ("*", _) => true,
            (_, Some(address)) => network.is_some_and(|network| network.contains(address)),
            (entry, None) => {
                let domain = entry.trim_start_matches("*.").trim_start_matches('.');
                let above = host.strip_suffix(domain);
                above.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
        };
    }
    Ok(exempt)
}

/// Addresses with the same prefix: `10.0.0.0/8`, or a single one.
struct IpNetwork {
    address: IpAddr,
    /// Of the prefix, in bits.
    length: u32,
}

impl IpNetwork {
    fn parse(entry: &str) -> Result<Option<Self>, String> {
        let (address, length) = entry.split_once('/').unwrap_or((entry, ""));
        let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() else {
            return Ok(None);
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match (entry.contains('/'), length.parse()) {
            (false, _) => width,
            (true, Ok(length)) if length <= width => length,
            (true, _) => return Err(entry.to_owned()),
        };
        Ok(Some(Self { address, length }))
    }

    fn contains(&self, address: IpAddr) -> bool {
        // Aligned at the most significant bit.
        let bits = |address: IpAddr| match address {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let differ = bits(self.address) ^ bits(address);
        let differ = differ.checked_shr(128 - self.length).unwrap_or(0);
        self.address.is_ipv4() == address.is_ipv4() && differ == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_domains_and_networks() {
        for (list, host, expected) in [
            ("*", "a.example", true),
            ("b,a.example", "A.example.", true),
            ("example", "a.example", true),
            (".example", "a.example", true),
            ("*.example", "a.example", true),
            ("10.0.0.0/8, ::1", "10.9.8.7", true),
            ("::1", "::1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("", "a.example", false),
            ("ample", "a.example", false),
            ("b.a.example", "a.example", false),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("::/0", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.10", false),
        ] {
            assert_eq!(is_exempt(list, host), Ok(expected), "{list} {host}");
        }
    }

    #[test]
    fn an_entry_that_is_nearly_a_network_is_an_error() {
        for list in ["a,10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/"] {
            assert!(is_exempt(list, "a").is_err(), "{list}");
        }
        assert_eq!(is_exempt("10.*,a/b,http://c/", "a"), Ok(false));
    }
}
