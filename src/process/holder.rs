//! The process that holds an address, as `/proc` shows it to permitted users.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in `/proc/net/tcp` (proc_pid_net(5)).
const LISTENING: &str = "0A";
/// Processes that are looked through; a host with more is no place to be thorough.
const MAX_PROCESSES: usize = 20_000;

/// Names the process that listens where `address` cannot be listened on, as in "process 4711 (nginx)".
pub fn holder(address: SocketAddr) -> Option<String> {
    let inodes = listening(address);
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.take(MAX_PROCESSES);
    let mut numbers = processes.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let found = numbers.find(|pid| has_open(*pid, &wanted));
    Some(match found {
        Some(pid) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim_end())
        }
        // A process that may not be dumped shows its descriptors to root alone; a countersign is one.
        None => "a process of another user, or another countersign".to_owned(),
    })
}

fn has_open(pid: u32, wanted: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let target = fs::read_link(descriptor.path());
        target.is_ok_and(|target| wanted.iter().any(|it| target.as_os_str() == it.as_str()))
    })
}

/// The inodes of the sockets that `address` would meet.
fn listening(address: SocketAddr) -> Vec<u64> {
    let mut found = Vec::new();
    // Both for either family: a socket on `[::]` takes IPv4 too (ipv6(7)).
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, LISTENING, ..] = fields.as_slice() else {
                return None;
            };
            let theirs = parse(local)?;
            let meets = theirs.port() == address.port()
                && (theirs.ip() == address.ip()
                    || theirs.ip().is_unspecified()
                    || address.ip().is_unspecified());
            meets.then(|| fields.get(9)?.parse::<u64>().ok()).flatten()
        }));
    }
    found
}

/// `0100007F:1F90`: each group of four bytes is in the machine's own order.
fn parse(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let group = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&group.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            ip.to_ipv4_mapped()
                .map_or(IpAddr::V6(ip), |ip: Ipv4Addr| IpAddr::V4(ip))
        }
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_s_table_is_an_address() {
        assert_eq!(
            parse("0100007F:1F90"),
            Some("127.0.0.1:8080".parse().unwrap())
        );
        let text = "00000000000000000000000001000000:0050";
        assert_eq!(parse(text), Some("[::1]:80".parse().unwrap()));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn a_busy_port_names_its_holder() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let said = holder(busy.local_addr().unwrap()).unwrap();
        assert!(said.contains(&std::process::id().to_string()), "{said}");
        let address = busy.local_addr().unwrap();
        drop(busy);
        assert_eq!(holder(address), None);
    }
}
