//! The proxy between us and the broker: how it is written, for which hosts it is used, and how it opens a tunnel.

mod exemption;
mod http_connect;
mod proxy_url;
mod socks5;

use std::io::{Read, Write};

pub use exemption::is_exempt;
use proxy_url::ProxyProtocol;
pub use proxy_url::ProxyUrl;

use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::Fault;

/// Asks the proxy for a tunnel to the broker. What it sends afterwards is the broker's and stays unread.
pub(super) fn open_tunnel(
    stream: &mut (impl Read + Write),
    proxy: &ProxyUrl,
    endpoint: &Endpoint,
) -> Result<(), Fault> {
    match proxy.protocol {
        ProxyProtocol::Http => http_connect::open_tunnel(stream, proxy, endpoint),
        ProxyProtocol::Socks5 => socks5::open_tunnel(stream, proxy, endpoint),
    }
}
