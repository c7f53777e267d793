//! Where connections come from, as limits count it.

use std::net::{IpAddr, Ipv6Addr};

/// What one subscriber has, as limits for each address count it: one address of IPv4; of IPv6 a network of 64 bits, since that is what
/// a host or a home is given at least ([RFC 6177](https://www.rfc-editor.org/rfc/rfc6177)), so that counting its addresses would limit nothing.
#[must_use]
pub fn of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_counts_as_an_address_of_ipv4_does() {
        let of = |text: &str| of(text.parse().unwrap()).to_string();
        assert_eq!([of("10.0.0.1"), of("::ffff:10.0.0.1")], ["10.0.0.1", "10.0.0.1"]);
        assert_eq!([of("2001:db8:1:2:3::4"), of("2001:db8:1:2::9")], ["2001:db8:1:2::", "2001:db8:1:2::"]);
        assert_eq!(of("2001:db8:1:3::9"), "2001:db8:1:3::");
    }
}
