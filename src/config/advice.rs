//! What people really paste where a CIDR or an address belongs, and what would be right.
//!
//! Pure. Each answer is half a sentence that follows the value in backticks.

use std::net::{IpAddr, Ipv6Addr};

use super::problem::quoted;
use super::spelling::listed;
use crate::net::prefix::{Family, Prefix, PrefixError, value_of};

/// Most CIDRs that an answer writes out.
const MAX_SHOWN: usize = 5;

/// What is wrong with a text where a CIDR belongs.
pub(crate) fn about_prefix(text: &str, error: &PrefixError) -> String {
    let trimmed = text.trim();
    if trimmed != text && trimmed.parse::<Prefix>().is_ok() {
        return format!("{} has blanks around it; write `{trimmed}`", quoted(text));
    }
    let answer = everything(text)
        .or_else(|| pasted(text))
        .or_else(|| several(text))
        .or_else(|| host_name(text))
        .or_else(|| the_only(text));
    match answer {
        Some(answer) => format!("{} {answer}", quoted(text)),
        None => format!("{} {error}", quoted(text)),
    }
}

/// What is wrong with a text where one address belongs, if it is one of the usual slips.
pub(crate) fn about_address(text: &str) -> Option<String> {
    let name = || {
        is_host_name(text)
            .then(|| "is a host name; names are not resolved: write its address".to_owned())
    };
    if range(text).is_some() {
        return Some("is a range; list each address by itself".to_owned());
    }
    pasted(text).or_else(name)
}

/// A template that nobody filled in, or a placeholder of some documentation.
pub(crate) fn template(text: &str) -> Option<&'static str> {
    let named = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if text.contains("{{")
        || text.contains("}}")
        || text.contains("${")
        || text.contains("{%")
        || text.strip_prefix('$').is_some_and(named)
    {
        return Some("is a template that was not filled in; render it first, and check the result");
    }
    (text.starts_with('<') && text.ends_with('>'))
        .then_some("is a placeholder; put the real value in its place")
}

/// A blank that is none for a parser: non-breaking, of no width, and so on.
pub(crate) fn odd_blank(text: &str) -> Option<String> {
    let odd = |c: &char| {
        !c.is_ascii() && c.is_whitespace()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    let found = text.chars().find(odd)?;
    let name = if found == '\u{a0}' {
        "a non-breaking space"
    } else {
        "an invisible character"
    };
    let code = u32::from(found);
    Some(format!("has {name} (U+{code:04X})"))
}

fn pasted(text: &str) -> Option<String> {
    if let Some(answer) = template(text) {
        return Some(answer.to_owned());
    }
    if let Some(what) = odd_blank(text) {
        let plain: String = text
            .chars()
            .filter(|c| c.is_ascii() && !c.is_whitespace())
            .collect();
        return Some(format!("{what}; write `{plain}`"));
    }
    [
        exclusion,
        url,
        range,
        wildcard,
        port,
        mapped,
        zone,
        mask,
        octal,
        short,
        slash,
        stray_marks,
        look_alike,
        number,
        hardware,
        route_line,
    ]
    .iter()
    .find_map(|answer| answer(text))
}

fn is_prefix(text: &str) -> bool {
    text.parse::<Prefix>().is_ok()
}

fn everything(text: &str) -> Option<String> {
    let words = [
        "default",
        "any",
        "all",
        "*",
        "0/0",
        "internet",
        "0.0.0.0/0.0.0.0",
    ];
    words
        .contains(&text.to_ascii_lowercase().as_str())
        .then(|| {
            "is not a CIDR; all addresses are `0.0.0.0/0` for IPv4 and `\"::/0\"` for IPv6"
                .to_owned()
        })
}

fn exclusion(text: &str) -> Option<String> {
    let rest = text
        .strip_prefix(['!', '^', '~'])
        .or_else(|| text.strip_prefix("not "))?
        .trim();
    is_prefix(rest).then(|| format!("is an exclusion; write `{rest}` under `except`"))
}

fn url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let bare = match bare.rsplit_once(':') {
        Some((before, _)) if !before.contains(':') => before,
        _ => bare,
    };
    Some(if bare.parse::<IpAddr>().is_ok() {
        format!("is a URL; routes know only addresses: write `{bare}`")
    } else {
        "is a URL; names are not resolved: write the CIDRs that its owner publishes".to_owned()
    })
}

fn range(text: &str) -> Option<String> {
    let (first, last) = text.split_once('-').or_else(|| text.split_once(".."))?;
    let first: IpAddr = first.trim().parse().ok()?;
    let last = last.trim();
    let last: IpAddr = match (first, last.parse::<u8>()) {
        (IpAddr::V4(v4), Ok(octet)) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, octet])
        }
        _ => last.parse().ok()?,
    };
    if Family::of(first) != Family::of(last) {
        return Some("is a range from one family to the other; write CIDRs".to_owned());
    }
    if first > last {
        return Some("is a range that ends before it begins; write CIDRs".to_owned());
    }
    let all = between(first, last);
    Some(match all.len() {
        0..=MAX_SHOWN => format!("is a range; write {}", listed(&all)),
        n => format!(
            "is a range; write the {n} CIDRs that it is made of, {} and so on",
            listed(&all[..MAX_SHOWN])
        ),
    })
}

/// The fewest CIDRs that hold exactly these addresses.
fn between(first: IpAddr, last: IpAddr) -> Vec<Prefix> {
    let family = Family::of(first);
    let (mut next, last) = (value_of(first), value_of(last));
    let mut all = Vec::new();
    loop {
        let mut len = family.bits();
        while len > 0 {
            let wider = Prefix::masked(family.address(next), len - 1);
            let (start, end) = wider.range();
            if start != next || end > last {
                break;
            }
            len -= 1;
        }
        let prefix = Prefix::masked(family.address(next), len);
        all.push(prefix);
        let (_, end) = prefix.range();
        if end >= last {
            return all;
        }
        next = end + 1;
    }
}

/// `10.116.*.*`
fn wildcard(text: &str) -> Option<String> {
    let octets: Vec<&str> = text.split('.').collect();
    let fixed = octets.iter().take_while(|octet| **octet != "*").count();
    if !text.contains('*') || octets.len() > 4 || octets[fixed..].iter().any(|o| *o != "*") {
        return None;
    }
    let mut numbers = [0u8; 4];
    for (number, octet) in numbers.iter_mut().zip(&octets[..fixed]) {
        *number = octet.parse().ok()?;
    }
    let len = u8::try_from(fixed * 8).ok()?;
    (fixed > 0).then(|| {
        let right = Prefix::masked(IpAddr::from(numbers), len);
        format!("has wildcards; write `{right}`")
    })
}

fn port(text: &str) -> Option<String> {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let (bare, after) = rest.split_once(']')?;
        bare.parse::<Ipv6Addr>().ok()?;
        return Some(match after.strip_prefix(':') {
            Some(_) => format!("has a port; routes have no ports: write `{bare}`"),
            None => format!("has brackets; write `{bare}{after}`"),
        });
    }
    let (bare, port) = text.rsplit_once(':')?;
    let v4 = bare
        .split('/')
        .next()?
        .parse::<std::net::Ipv4Addr>()
        .is_ok();
    (v4 && is_prefix(bare) && (is_port(port) || port == "*"))
        .then(|| format!("has a port; routes have no ports: write `{bare}`"))
}

/// `::ffff:203.0.113.0/120`
fn mapped(text: &str) -> Option<String> {
    let (address, len) = text.split_once('/')?;
    let v4 = address.parse::<Ipv6Addr>().ok()?.to_ipv4_mapped()?;
    let len = len.parse::<u8>().ok()?.checked_sub(96)?;
    let right = Prefix::masked(IpAddr::V4(v4), len);
    (len <= 32).then(|| format!("is an IPv4-mapped IPv6 CIDR; write the IPv4 one, `{right}`"))
}

fn zone(text: &str) -> Option<String> {
    let (address, rest) = text.split_once('%')?;
    let address: IpAddr = address.parse().ok()?;
    let len = rest.find('/').map_or("", |slash| &rest[slash..]);
    Some(format!(
        "has a zone, which no route has; write `{address}{len}`"
    ))
}

/// `10.0.0.0/255.0.0.0`, `10.0.0.0 255.0.0.0`
fn mask(text: &str) -> Option<String> {
    let (address, mask) = text.split_once(['/', ' '])?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let bits = mask.trim().parse::<std::net::Ipv4Addr>().ok()?.to_bits();
    if text.contains(' ') && bits.leading_ones() < 8 {
        return None; // two addresses
    }
    if bits.leading_zeros() + bits.trailing_ones() == 32 && bits != 0 && bits != u32::MAX {
        let len = u8::try_from(bits.leading_zeros()).ok()?;
        let right = Prefix::masked(IpAddr::V4(address), len);
        return Some(format!("has an inverse mask; write `{right}`"));
    }
    if bits.leading_ones() + bits.trailing_zeros() != 32 && bits != 0 {
        return text
            .contains('/')
            .then(|| "has a mask with holes; write CIDRs".to_owned());
    }
    let len = u8::try_from(bits.leading_ones()).ok()?;
    let right = Prefix::masked(IpAddr::V4(address), len);
    Some(format!("has a dotted mask; write `{right}`"))
}

/// `010.0.0.0/8`
fn octal(text: &str) -> Option<String> {
    let (address, len) = text.split_once('/')?;
    let octets: Option<Vec<u8>> = address.split('.').map(|o| o.parse().ok()).collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    let right = format!("{}/{len}", std::net::Ipv4Addr::from(octets));
    (right != text && is_prefix(&right))
        .then(|| format!("has a leading zero, which some programs read as octal; write `{right}`"))
}

/// `10.116/16`
fn short(text: &str) -> Option<String> {
    let (address, len) = text.split_once('/')?;
    let octets = address.split('.').count();
    let full = format!("{address}{}", ".0".repeat(4usize.checked_sub(octets)?));
    let right = format!("{full}/{len}");
    (octets < 4 && is_prefix(&right)).then(|| format!("has {octets} of 4 octets; write `{right}`"))
}

/// `-203.0.113.0/24`, `203.0.113.0/24,`, `'203.0.113.0/24'`
fn stray_marks(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('-')
        && is_prefix(rest)
    {
        return Some(format!("lacks a blank after `-`; write `- {rest}`"));
    }
    let bare = text
        .trim_start_matches("- ")
        .trim_matches(['"', '\'', ',', ';', '.', ' ', '(', ')']);
    (bare != text && is_prefix(bare)).then(|| format!("is more than a CIDR; write `{bare}`"))
}

/// `203.0.113.0\24`, `203.0.113.0 /24`
fn slash(text: &str) -> Option<String> {
    let right: String = text
        .replace(['\\', '_', '|'], "/")
        .split_whitespace()
        .collect();
    let (_, len) = right.split_once('/')?;
    (right != text && !len.is_empty() && len.len() <= 3 && is_prefix(&right))
        .then(|| format!("is not a CIDR; write `{right}`"))
}

/// `l0.0.0.0/8`, with a letter
fn look_alike(text: &str) -> Option<String> {
    let right = text.replace(['O', 'o'], "0").replace(['l', 'I'], "1");
    (right != text && is_prefix(&right))
        .then(|| format!("has a letter in the place of a digit; write `{right}`"))
}

/// `12:34:56:78:9a:bc`
fn hardware(text: &str) -> Option<String> {
    let pairs: Vec<&str> = text.split([':', '-']).collect();
    let pair = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    (pairs.len() == 6 && pairs.iter().all(pair))
        .then(|| "is a hardware address; write the IP address".to_owned())
}

/// `203.0.113.0/24 via 10.116.0.5`
fn route_line(text: &str) -> Option<String> {
    (text.starts_with("ip route ") || text.starts_with("route ") || text.contains(" via ")).then(
        || "is a route; `egress-routes convert` makes a routes.yaml of `ip route` lines".to_owned(),
    )
}

/// `cidr=203.0.113.0/24`
fn the_only(text: &str) -> Option<String> {
    let marks = [' ', '\t', '=', ',', ';', '"', '\'', '(', ')', '#'];
    let after_key = text.split_once(':').map_or(text, |(_, rest)| rest);
    let parts = text.split(marks).chain([after_key]);
    let mut found = parts.filter(|part| part.contains(['.', ':']) && is_prefix(part));
    let only = found.next()?;
    Some(format!("is more than a CIDR; write `{only}`"))
}

fn number(text: &str) -> Option<String> {
    let digits = text
        .strip_prefix("AS")
        .or_else(|| text.strip_prefix("as"))?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| {
        "is an AS number, which routes do not know; write the CIDRs that it announces".to_owned()
    })
}

fn several(text: &str) -> Option<String> {
    let parts = text.split([' ', ',', ';', '\t']);
    let count = parts.filter(|part| is_prefix(part)).count();
    (count > 1).then(|| "is more than one CIDR; make each an item of its own".to_owned())
}

/// Letters, digits, `-`, `_`, `.`, and a last label that is no number.
fn host_name(text: &str) -> Option<String> {
    is_host_name(text).then(|| {
        "is a host name; names are not resolved: write the addresses or CIDRs behind it".to_owned()
    })
}

pub(crate) fn is_host_name(text: &str) -> bool {
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let (bare, _) = bare.split_once(':').unwrap_or((bare, ""));
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let top = bare.trim_end_matches('.').rsplit('.').next();
    let top = top.unwrap_or_default();
    let named = top.len() > 1 && top.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let named = named && top.starts_with(|c: char| c.is_ascii_alphabetic());
    let fine = bare.contains('.') && bare.trim_end_matches('.').split('.').all(label);
    named && fine && text.len() <= 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice_for(text: &str) -> String {
        match text.parse::<Prefix>() {
            Ok(_) => "fine".to_owned(),
            Err(error) => about_prefix(text, &error),
        }
    }

    #[test]
    #[allow(
        clippy::format_push_string,
        reason = "a test may be slow where it is plain"
    )]
    fn what_is_pasted_is_answered_with_what_would_be_right() {
        let (mut wrong, mut right) = (Vec::new(), String::new());
        for line in include_str!("tests/pasted.txt").lines() {
            let Some((text, expected)) = line.split_once(" => ") else {
                right.push_str(&format!("{line}\n"));
                continue;
            };
            let answer = advice_for(
                &text
                    .replace("<nbsp>", "\u{a0}")
                    .replace("<zwsp>", "\u{200b}"),
            )
            .replace('\u{a0}', "<nbsp>")
            .replace('\u{200b}', "<zwsp>");
            right.push_str(&format!("{text} => {answer}\n"));
            if answer != expected {
                wrong.push(format!(
                    "{text}\n  advice:   {answer}\n  expected: {expected}"
                ));
            }
        }
        crate::config::tests::settle("pasted.txt", &wrong, &right);
    }

    proptest::proptest! {
        #[test]
        fn a_range_is_exactly_its_prefixes(a in proptest::prelude::any::<u32>(), b in proptest::prelude::any::<u32>()) {
            let (first, last) = (a.min(b), a.max(b));
            let all = between(IpAddr::from(first.to_be_bytes()), IpAddr::from(last.to_be_bytes()));
            let mut next = u128::from(first);
            for prefix in all {
                proptest::prop_assert_eq!(prefix.range().0, next);
                next = prefix.range().1 + 1;
            }
            proptest::prop_assert_eq!(next, u128::from(last) + 1);
        }

        #[test]
        fn no_text_whatever_makes_it_panic(text in "\\PC{0,40}|[0-9a-f.:/%*!\\[\\]-]{0,30}") {
            let _ = (advice_for(&text), about_address(&text));
        }
    }
}
