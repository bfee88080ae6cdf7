//! Whether the program `ip` is iproute2, and new enough.
//!
//! Pure.

/// The program `ip` is not what is needed, in words for a person.
#[derive(Debug)]
pub struct Unfit(String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// Whether the version that `ip -V` prints is new enough.
pub(super) fn is_fit(output: &str) -> Result<(), Unfit> {
    // "ip utility, iproute2-6.1.0, libbpf 1.1.2"; those before 5.7 carry a date: "iproute2-ss200127"
    let Some((_, version)) = output.split_once("iproute2-") else {
        let output = output.trim().chars().take(200).collect::<String>();
        return Err(Unfit(format!(
            "`ip -V` prints {output:?}: egress-routes needs `ip` from iproute2 5.12 or later"
        )));
    };
    let version = version
        .split(|c: char| c == ',' || c.is_whitespace())
        .next()
        .unwrap_or_default();
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let is_too_old = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (5, 12),
        _ => version.starts_with("ss"),
    };
    if is_too_old {
        return Err(Unfit(format!(
            "iproute2 {version} is too old: resilient nexthop groups need 5.12 or later"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip_that_is_too_old_or_another_program_is_known_by_its_version() {
        for fit in [
            "ip utility, iproute2-6.1.0, libbpf 1.1.2\n",
            "ip utility, iproute2-5.12.0\n",
            "ip utility, iproute2-git\n",
        ] {
            assert!(is_fit(fit).is_ok(), "{fit}");
        }
        let why = |output| is_fit(output).unwrap_err().to_string();
        assert_eq!(
            why("ip utility, iproute2-5.11.0\n"),
            "iproute2 5.11.0 is too old: resilient nexthop groups need 5.12 or later"
        );
        assert_eq!(
            why("ip utility, iproute2-ss200127\n"),
            "iproute2 ss200127 is too old: resilient nexthop groups need 5.12 or later"
        );
        assert_eq!(
            why("BusyBox v1.36.1\n"),
            "`ip -V` prints \"BusyBox v1.36.1\": egress-routes needs `ip` from iproute2 5.12 or later"
        );
    }
}
