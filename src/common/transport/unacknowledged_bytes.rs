//! How much of what was written to a TCP connection the peer has not acknowledged.
//!
//! Linux reports it in `/proc/self/net/tcp` and `tcp6`, in the column `tx_queue` of the line with the connection's
//! inode (proc(5), and `Documentation/networking/proc_net_tcp.rst` of the kernel). `SIOCOUTQ` of tcp(7) returns the
//! same number without a search, but no library has a safe call for it. To read the table takes some milliseconds, so
//! this is for connections on which nothing has been received for a while. What was written to a Unix socket has
//! arrived: the system puts it into the peer's buffer at once.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;

use rustix::fs::fstat;

use super::socket::Socket;

/// The columns, counted from 0.
const QUEUES: usize = 4;
const INODE: usize = 9;

/// Bytes that the peer's system has not acknowledged; none if the connection was reset, so that the
/// operating system does not know it any more.
pub(super) fn unacknowledged(socket: &Socket) -> io::Result<Option<u64>> {
    match socket {
        Socket::Tcp(stream) => unacknowledged_by_tcp(stream),
        Socket::Unix(_) => Ok(Some(0)),
    }
}

fn unacknowledged_by_tcp(stream: &TcpStream) -> io::Result<Option<u64>> {
    let inode = fstat(stream)?.st_ino;
    let version = if stream.local_addr()?.is_ipv4() {
        ""
    } else {
        "6"
    };
    let table = File::open(format!("/proc/self/net/tcp{version}"))?;
    find_in_tcp_table(BufReader::new(table), inode)
}

fn find_in_tcp_table(table: impl BufRead, inode: u64) -> io::Result<Option<u64>> {
    for line in table.lines() {
        if let Some((found, queued)) = parse(&line?)
            && found == inode
        {
            return Ok(Some(queued));
        }
    }
    Ok(None)
}

/// The inode and the bytes of one line; none for the heading.
fn parse(line: &str) -> Option<(u64, u64)> {
    let mut columns = line.split_ascii_whitespace();
    let (queued, _) = columns.nth(QUEUES)?.split_once(':')?;
    let inode = columns.nth(INODE - QUEUES - 1)?;
    Some((inode.parse().ok()?, u64::from_str_radix(queued, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_line_of_a_connection_is_found_by_its_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0\n\
             \x20  1: 0100007F:D2F0 0100007F:075B 01 003B2C1B:00000000 01:00000014 00000000     0        0 34 3 0 20 4\n";
        assert_eq!(find_in_tcp_table(table.as_bytes(), 12).unwrap(), Some(0));
        assert_eq!(
            find_in_tcp_table(table.as_bytes(), 34).unwrap(),
            Some(3_877_915)
        );
        assert_eq!(find_in_tcp_table(table.as_bytes(), 56).unwrap(), None);
    }

    #[test]
    fn what_was_written_to_a_unix_socket_has_arrived() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"hello").unwrap();
        let ours = Socket::Unix(ours);
        assert_eq!(unacknowledged(&ours).unwrap(), Some(0));
        drop(theirs);
    }

    #[test]
    fn bytes_that_the_peer_does_not_read_are_counted() {
        for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let address: std::net::IpAddr = address;
            let Ok(listener) = TcpListener::bind((address, 0)) else {
                continue; // No IPv6 here.
            };
            let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut theirs, _) = listener.accept().unwrap();
            ours.write_all(b"hello").unwrap();
            theirs.read_exact(&mut [0; 5]).unwrap();
            assert_eq!(unacknowledged_by_tcp(&ours).unwrap(), Some(0), "{address}");
            ours.set_nonblocking(true).unwrap();
            while ours.write(&vec![0; 1 << 16]).is_ok() {}
            let queued = unacknowledged_by_tcp(&ours).unwrap().unwrap();
            assert!(queued > 1 << 16, "{queued}");
            drop(theirs);
            // Reset, since it had something unread.
            ours.set_nonblocking(false).unwrap();
            ours.read(&mut [0]).unwrap_err();
            assert_eq!(unacknowledged_by_tcp(&ours).unwrap(), None, "{address}");
        }
    }
}
