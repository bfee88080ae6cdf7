//! Prefixes: what a destination, a protected range or an on-link subnet is.
//!
//! Pure. A [`Prefix`] never has host bits; text that has them is an error that names the right
//! value, not a silent mask (the kernel refuses them for IPv4 and masks them for IPv6). Sets of
//! prefixes and their arithmetic live in `cut`.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address family; one nexthop group exists per route set and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, in the order in which they are read and reported.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Address length in bits: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// `0.0.0.0/0` or `::/0`.
    pub fn everything(self) -> Prefix {
        Prefix::masked(self.address(0), 0)
    }

    /// The address with this value; the upper bits of an IPv4 value are ignored.
    #[allow(clippy::cast_possible_truncation)] // the low 32 bits are the address
    pub const fn address(self, value: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(value as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(value)),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as a number; IPv4 in the low 32 bits.
pub const fn value_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits() as u128,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// A CIDR without host bits. Ordered by family, address, then length.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Ord for Prefix {
    /// As derived, but as numbers: tens of thousands are compared in each pass.
    fn cmp(&self, other: &Self) -> Ordering {
        let address = match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.to_bits().cmp(&b.to_bits()),
            (a, b) => a.cmp(&b),
        };
        address.then(self.len.cmp(&other.len))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text is not a prefix. `Display` includes what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// Bits after the length are set; holds the prefix that was probably meant.
    HostBits(Prefix),
    /// Not an address and not a CIDR; holds the reason as a sentence.
    Syntax(String),
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostBits(right) => write!(f, "has host bits set; did you mean `{right}`?"),
            Self::Syntax(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for PrefixError {}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; host bits are dropped and `len` is capped at the family's width.
    pub fn masked(address: IpAddr, len: u8) -> Self {
        let family = Family::of(address);
        let len = len.min(family.bits());
        let value = value_of(address) & !host_mask(family, len);
        Self {
            address: family.address(value),
            len,
        }
    }

    /// `/32` or `/128`.
    pub const fn host(address: IpAddr) -> Self {
        let len = Family::of(address).bits();
        Self { address, len }
    }

    /// The first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The length in bits.
    #[allow(clippy::len_without_is_empty)] // a prefix holds at least one address
    pub const fn len(self) -> u8 {
        self.len
    }

    /// True for `0.0.0.0/0` and `::/0`.
    pub fn is_everything(self) -> bool {
        self.len() == 0
    }

    /// The family.
    pub fn family(self) -> Family {
        Family::of(self.address())
    }

    /// First and last address as numbers.
    pub fn range(self) -> (u128, u128) {
        let first = value_of(self.address());
        (first, first | host_mask(self.family(), self.len()))
    }

    /// Whether the address is inside.
    pub fn contains(self, address: IpAddr) -> bool {
        let family = Family::of(address);
        let differ = value_of(address) ^ value_of(self.address());
        self.family() == family && differ & !host_mask(family, self.len()) == 0
    }

    /// Whether `other` is equal to or inside this prefix.
    pub fn covers(self, other: Self) -> bool {
        self.len() <= other.len() && self.contains(other.address())
    }
}

const fn host_mask(family: Family, len: u8) -> u128 {
    let host_bits = family.bits() - len;
    if host_bits == 128 {
        u128::MAX
    } else {
        (1 << host_bits) - 1
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.len())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// A CIDR or a bare address in canonical digits: no mask in dotted form, no leading zeros, no zone.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text
            .split_once('/')
            .map_or((text, None), |(a, l)| (a, Some(l)));
        let address = parse_address(address).map_err(PrefixError::Syntax)?;
        let family = Family::of(address);
        let len = match len {
            None => family.bits(),
            Some(len) => parse_len(len, family).map_err(PrefixError::Syntax)?,
        };
        let prefix = Self::masked(address, len);
        if prefix.address() == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits(prefix))
        }
    }
}

/// Reads an address; the error is a sentence for the person who wrote it.
pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    if let Some((bare, zone)) = text.split_once('%')
        && bare.parse::<Ipv6Addr>().is_ok()
    {
        return Err(format!(
            "has a zone `%{zone}`, which means nothing to another node; write `{bare}`"
        ));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        let octets: Vec<&str> = text.split('.').collect();
        let digits = |o: &&str| !o.is_empty() && o.len() < 10 && o.bytes().all(|b| b.is_ascii_digit());
        if octets.len() == 4 && octets.iter().all(digits) {
            let numbers: Vec<u32> = octets.iter().filter_map(|o| o.parse().ok()).collect();
            if let Some(large) = numbers.iter().find(|n| **n > 255) {
                return format!("is not an IPv4 address: `{large}` is more than 255");
            }
            let right: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            return format!("has a leading zero, which some programs read as octal; write `{}`", right.join("."));
        }
        "is not an IP address or CIDR; expected one like `203.0.113.0/24`, `198.51.100.7` or `2001:db8::/32`".to_owned()
    })?;
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!(
            "is an IPv4-mapped IPv6 address; write the IPv4 address `{v4}`"
        ));
    }
    Ok(address)
}

fn parse_len(text: &str, family: Family) -> Result<u8, String> {
    let most = family.bits();
    if text.contains('.') {
        return Err("has a dotted mask; write the prefix length in bits, like `/8`".to_owned());
    }
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u8>() {
        Ok(len) if plain && len <= most && (text == "0" || !text.starts_with('0')) => Ok(len),
        Ok(len) if plain && len <= most => Err(format!(
            "has a leading zero in its prefix length; write `/{len}`"
        )),
        _ => Err(format!(
            "has the prefix length `/{text}`; an {family} prefix length is a number from 0 to {most}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_prints_as_it_was_written() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "198.51.100.7/32",
            "::/0",
            "2001:db8::/32",
            "::1/128",
        ] {
            assert_eq!(p(text).to_string(), text);
        }
        assert_eq!(p("198.51.100.7").to_string(), "198.51.100.7/32");
    }

    #[test]
    fn what_is_not_a_canonical_prefix_is_refused_with_what_would_be_right() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        assert_eq!(
            error("10.1.2.3/8"),
            "has host bits set; did you mean `10.0.0.0/8`?"
        );
        assert_eq!(
            error("2001:db8::1/32"),
            "has host bits set; did you mean `2001:db8::/32`?"
        );
        assert_eq!(
            error("010.0.0.0/8"),
            "has a leading zero, which some programs read as octal; write `10.0.0.0`"
        );
        assert_eq!(
            error("10.0.0.0/08"),
            "has a leading zero in its prefix length; write `/8`"
        );
        assert_eq!(
            error("10.0.0.0/255.0.0.0"),
            "has a dotted mask; write the prefix length in bits, like `/8`"
        );
        assert_eq!(
            error("10.0.0.0/33"),
            "has the prefix length `/33`; an IPv4 prefix length is a number from 0 to 32"
        );
        assert_eq!(
            error("10.0.0.0/+8"),
            "has the prefix length `/+8`; an IPv4 prefix length is a number from 0 to 32"
        );
        assert_eq!(
            error("::ffff:10.0.0.1"),
            "is an IPv4-mapped IPv6 address; write the IPv4 address `10.0.0.1`"
        );
        assert_eq!(
            error("fe80::1%eth0"),
            "has a zone `%eth0`, which means nothing to another node; write `fe80::1`"
        );
        assert_eq!(
            error("256.1.1.1"),
            "is not an IPv4 address: `256` is more than 255"
        );
        assert!(error("10.0.0.0 /8").starts_with("is not an IP address or CIDR"));
    }

    #[test]
    fn covers_is_equal_or_inside_and_never_across_families() {
        assert!(p("10.0.0.0/8").covers(p("10.0.0.0/8")));
        assert!(p("10.0.0.0/8").covers(p("10.255.0.0/16")));
        assert!(!p("10.0.0.0/16").covers(p("10.0.0.0/8")));
        assert!(!p("::/0").covers(p("10.0.0.0/8")));
        assert_eq!(p("0.0.0.0/0").range(), (0, u128::from(u32::MAX)));
        assert_eq!(p("::/0").range(), (0, u128::MAX));
    }
}
