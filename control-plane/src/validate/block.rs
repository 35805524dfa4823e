//! Whom an operator may block.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

use crate::field::FieldError;

/// Longest reason, in characters.
pub const REASON_MAX: usize = 200;

/// Longest time: what is to be longer has no end.
pub const SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// The network of an address or network as people write it; `loopback`: also the node's own.
///
/// # Errors
/// It is none, has host bits, or takes in what must not be blocked.
pub fn network(text: &str, loopback: bool) -> Result<IpNet, FieldError> {
    let refuse = |message: String| FieldError::new("network", text, message);
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| {
            refuse("must be an address or a network, as in 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32".into())
        })?,
    };
    if network.trunc() != network {
        return Err(refuse(format!("has bits behind its prefix; write {} for all of it", network.trunc())));
    }
    if network.prefix_len() == 0 {
        return Err(refuse("is everybody; switch channels off, or stop nodes, instead".into()));
    }
    if let IpNet::V6(v6) = network
        && overlap(network, IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0, 0]), 96)))
    {
        return Err(refuse(format!("{} has IPv4 addresses in it; write those as IPv4", v6.network())));
    }
    let own: [IpNet; 2] =
        [IpNet::new_assert([127, 0, 0, 0].into(), 8), IpNet::from(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]))];
    if !loopback && own.iter().any(|own| overlap(network, *own)) {
        return Err(refuse("is the node itself; say that loopback is meant, if it is".into()));
    }
    Ok(network)
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Why it is blocked.
///
/// # Errors
/// It is too long, or no line of text.
pub fn reason(text: &str) -> Result<String, FieldError> {
    if text.chars().count() > REASON_MAX || text.chars().any(char::is_control) {
        let message = format!("must be one line of at most {REASON_MAX} characters");
        return Err(FieldError::new("reason", text, message));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_taken_as_they_are_written() {
        for (text, means) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(network(text, false).unwrap().to_string(), means);
        }
        assert_eq!(network("127.0.0.2", true).unwrap().to_string(), "127.0.0.2/32");
        assert_eq!(network("::1", true).unwrap().to_string(), "::1/128");
    }

    #[test]
    fn what_must_not_be_blocked_is_refused_with_a_remedy() {
        for (text, remedy) in [
            ("", "as in 192.0.2.7"),
            ("example.com", "as in 192.0.2.7"),
            ("192.0.2.0/33", "as in 192.0.2.7"),
            ("192.0.2.7/24", "write 192.0.2.0/24"),
            ("2001:db8::1/64", "write 2001:db8::/64"),
            ("0.0.0.0/0", "everybody"),
            ("::/0", "everybody"),
            ("127.0.0.1", "loopback"),
            ("126.0.0.0/7", "loopback"),
            ("::1", "loopback"),
            ("::ffff:192.0.2.7", "as IPv4"),
            ("::/8", "as IPv4"),
        ] {
            let error = network(text, false).unwrap_err();
            assert_eq!(error.field, "network");
            assert!(error.to_string().contains(remedy), "{error}");
        }
        assert!(reason("a\nb").is_err() && reason(&"x".repeat(201)).is_err());
    }
}
