//! Which addresses of the outside may be spoken to (ATTACKS A49, DESIGN "Outside addresses").
//!
//! Private networks are allowed, since a company's provider is often inside. This machine is
//! allowed only where the settings say so. Link-local, multicast, unspecified and the addresses of
//! cloud metadata services never are, in whichever notation IPv6 can carry an IPv4 address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// It is this machine, and `allow_loopback` is not set.
    Loopback,
    /// It is on the link (169.254.0.0/16, fe80::/10), where cloud metadata services live.
    LinkLocal,
    /// It is the address of a cloud's metadata service.
    Metadata,
    /// It stands for no one host: unspecified, multicast, broadcast or reserved.
    NoHost,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "it is this machine, which needs `allow_loopback = true`",
            Self::LinkLocal => "it is link-local, which is never allowed",
            Self::Metadata => "it is a cloud's metadata service, which is never allowed",
            Self::NoHost => "it is no address of one host",
        })
    }
}

/// Metadata services that live outside of the link-local range: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
/// The same within IPv6's private range: AWS, Google.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Judges one resolved address.
///
/// # Errors
/// Says which rule forbids it.
pub fn check(address: IpAddr, allow_loopback: bool) -> Result<(), Forbidden> {
    match address {
        IpAddr::V4(v4) => check_v4(v4, allow_loopback),
        IpAddr::V6(v6) => check_v6(v6, allow_loopback),
    }
}

fn check_v4(address: Ipv4Addr, allow_loopback: bool) -> Result<(), Forbidden> {
    let [first, ..] = address.octets();
    if address.is_loopback() {
        return if allow_loopback { Ok(()) } else { Err(Forbidden::Loopback) };
    }
    if address.is_link_local() {
        return Err(Forbidden::LinkLocal);
    }
    if METADATA_V4.contains(&address) {
        return Err(Forbidden::Metadata);
    }
    // 0/8 is "this network" and reaches this machine on Linux; 240/4 is reserved and has broadcast.
    if first == 0 || address.is_multicast() || first >= 240 {
        return Err(Forbidden::NoHost);
    }
    Ok(())
}

fn check_v6(address: Ipv6Addr, allow_loopback: bool) -> Result<(), Forbidden> {
    if address.is_loopback() {
        return if allow_loopback { Ok(()) } else { Err(Forbidden::Loopback) };
    }
    if let Some(v4) = carried_v4(address) {
        return check_v4(v4, allow_loopback);
    }
    if address.is_unicast_link_local() {
        return Err(Forbidden::LinkLocal);
    }
    if METADATA_V6.contains(&address) {
        return Err(Forbidden::Metadata);
    }
    // 2001::/32 is Teredo, which hides an IPv4 address in its last bits; nobody's provider is there.
    let teredo = matches!(address.segments(), [0x2001, 0, ..]);
    if address.is_unspecified() || address.is_multicast() || teredo {
        return Err(Forbidden::NoHost);
    }
    Ok(())
}

/// The IPv4 address that an IPv6 one is another way to write: mapped, compatible (RFC 4291
/// §2.5.5), translated (RFC 2765, RFC 6052, RFC 8215) and 6to4 (RFC 3056).
fn carried_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}
