//! Whose an address is, where clients are counted by it.

use std::net::IpAddr;

/// The address that a client is counted under: an IPv6 client is its /64, which whoever has one address of it has
/// whole (RFC 6177); an IPv4 address stays, also where it came mapped into IPv6.
#[must_use]
pub fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}
