//! The header by which a load balancer tells from where a connection comes that it passes on: version 1 or 2 of the
//! [PROXY protocol](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What one of version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The longest of version 1, with its line end.
const LINE: usize = 107;
/// The longest of version 2 that is taken: what else it may tell, such as of TLS, is far shorter.
const LONGEST: usize = 4 * 1024;

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It ended before it said anything: somebody has looked whether the port is open.
    #[error("it ended and said nothing")]
    Look,
    /// It ended, or failed.
    #[error("it ended before its header did: {0}")]
    Ended(#[from] io::Error),
    /// It begins with something else.
    #[error("it does not begin with a header of the PROXY protocol")]
    None,
    /// It begins with one that breaks the rules.
    #[error("its header breaks the rules of the PROXY protocol")]
    Malformed,
}

/// Reads the header, and nothing beyond it. Answers who connected to the load balancer; `None` if that one connected by itself, to look
/// whether anybody is there.
///
/// # Errors
/// There is no header, or it breaks the rules.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Fault> {
    // No header is shorter, and the first bytes tell the version.
    let mut header = vec![0; SIGNATURE.len()];
    // Some who look end it by a reset.
    let begun = stream.read(&mut header).await.unwrap_or(0);
    if begun == 0 {
        return Err(Fault::Look);
    }
    stream.read_exact(&mut header[begun..]).await?;
    if header == SIGNATURE {
        header.resize(SIGNATURE.len() + 4, 0);
        stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let length = header.len() + usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > LONGEST {
            return Err(Fault::Malformed);
        }
        let begun = header.len();
        header.resize(length, 0);
        stream.read_exact(&mut header[begun..]).await?;
    } else if header.starts_with(WORD) {
        while !header.ends_with(b"\r\n") {
            if header.len() >= LINE {
                return Err(Fault::Malformed);
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(Fault::None);
    }
    match ProxyHeader::parse(&header, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
        Ok((parsed, length)) if length == header.len() => Ok(parsed.proxied_address().map(|address| address.source)),
        Ok(_) | Err(_) => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of a connection, and what is left of it.
    fn introduced(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, Fault>, &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        (runtime.block_on(read(&mut bytes)), bytes)
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend(rest);
        header
    }

    #[test]
    fn both_versions_tell_who_it_is_and_what_follows_is_left() {
        let ipv4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x1f, 0x98];
        let with_more = [&ipv4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        let cases = [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 8088\r\n".to_vec(), Some("203.0.113.7:56324")),
            (b"PROXY TCP6 2001:db8::7 ::1 56324 8088\r\n".to_vec(), Some("[2001:db8::7]:56324")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN whatever it says\r\n".to_vec(), None),
            (version_2(0x21, 0x11, &ipv4), Some("203.0.113.7:56324")),
            (version_2(0x21, 0x11, &with_more), Some("203.0.113.7:56324")),
            (version_2(0x20, 0x00, &[]), None),
            (version_2(0x20, 0x11, &ipv4), None),
        ];
        for (header, expected) in cases {
            let bytes = [&header[..], b"{\"Hello\""].concat();
            let (source, rest) = introduced(&bytes);
            assert_eq!(source.unwrap(), expected.map(|text| text.parse().unwrap()), "{header:?}");
            assert_eq!(rest, b"{\"Hello\"");
        }
    }

    #[test]
    fn what_is_no_header_is_told() {
        assert!(matches!(introduced(b"{\"Hello\":{\"version\":1}}\n").0, Err(Fault::None)));
        for begun in [&b"P"[..], b"PROXY TCP4 203.0", SIGNATURE] {
            assert!(matches!(introduced(begun).0, Err(Fault::Ended(_))));
        }
        assert!(matches!(introduced(b"").0, Err(Fault::Look)));
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        assert!(matches!(introduced(&endless).0, Err(Fault::Malformed)));
        for bad in [
            b"PROXY TCP4 203.0.113.700 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP5 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(),
            version_2(0x31, 0x11, &[0; 12]),
            version_2(0x21, 0x11, &[0; 3]),
            version_2(0x21, 0x11, &[0; LONGEST]),
        ] {
            assert!(matches!(introduced(&bad).0, Err(Fault::Malformed)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), begins in 0..3) {
            let begin: &[u8] = match begins {
                0 => SIGNATURE,
                1 => WORD,
                _ => b"",
            };
            bytes.splice(0..0, begin.iter().copied());
            let (_, rest) = introduced(&bytes);
            prop_assert!(rest.len() <= bytes.len());
        }
    }
}
