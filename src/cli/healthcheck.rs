//! `countersign healthcheck`: is the sidecar of this configuration ready? For containers, which have no curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::config::Config;
use super::failure::Failure;
use crate::cli::print::say;

/// Connecting, and each read and write.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of a response; readiness takes one line.
const MAX_RESPONSE: u64 = 16 * 1024;

pub(super) fn healthcheck(config: &Config) -> Result<(), Failure> {
    let address = reachable(config.settings()?.admin.listen);
    let failed = |error: std::io::Error| Failure::No(format!("http://{address}/readyz: {error}"));
    let response = get(address).map_err(failed)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    match head.split(' ').nth(1) {
        Some("200") => {
            say!("ready");
            Ok(())
        }
        status => Err(Failure::No(format!(
            "http://{address}/readyz: status {}: {}",
            status.unwrap_or("unreadable"),
            body.trim_end()
        ))),
    }
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        // `close` makes the end of the stream the end of the response, so that no length has to be read.
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// A listener on all addresses is reached at loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}
