//! Client addresses: the longest match decides.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::channel::AddressRule;
use ipnet::IpNet;

/// Networks by length, so that a look-up takes one step for each length in use, however many there are of it.
#[derive(Debug, Default)]
pub(super) struct AddressTable {
    v4: Vec<OfLength>,
    v6: Vec<OfLength>,
    /// What holds where nothing matches.
    otherwise: bool,
}

/// Networks of one length; longest first in the table.
#[derive(Debug)]
struct OfLength {
    /// The bits that count.
    mask: u128,
    /// Whether to allow, by network.
    nets: HashMap<u128, bool>,
}

impl AddressTable {
    pub(super) fn new(rule: &AddressRule) -> Self {
        let mut table = Self { v4: Vec::new(), v6: Vec::new(), otherwise: rule.allow.is_empty() };
        // The deny list last: at equal length it overwrites.
        for (nets, allow) in [(&rule.allow, true), (&rule.deny, false)] {
            nets.iter().for_each(|net| table.insert(*net, allow));
        }
        for lengths in [&mut table.v4, &mut table.v6] {
            lengths.sort_by_key(|of_length| std::cmp::Reverse(of_length.mask.count_ones()));
        }
        table
    }

    /// Whether a client may come in. An IPv4 address that arrived over an IPv6 socket is an IPv4 address.
    pub(super) fn allows(&self, client: IpAddr) -> bool {
        let (lengths, bits) = match client.to_canonical() {
            IpAddr::V4(address) => (&self.v4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (&self.v6, address.to_bits()),
        };
        let found = lengths.iter().find_map(|of_length| of_length.nets.get(&(bits & of_length.mask)));
        found.copied().unwrap_or(self.otherwise)
    }

    fn insert(&mut self, net: IpNet, allow: bool) {
        let (lengths, bits, length, width) = match (net, net.network().to_canonical()) {
            (IpNet::V4(net), _) => (&mut self.v4, u128::from(net.network().to_bits()), net.prefix_len(), 32),
            (IpNet::V6(net), IpAddr::V4(mapped)) if net.prefix_len() >= 96 => {
                (&mut self.v4, u128::from(mapped.to_bits()), net.prefix_len() - 96, 32)
            }
            (IpNet::V6(net), _) => (&mut self.v6, net.network().to_bits(), net.prefix_len(), 128),
        };
        let mask = match length {
            0 => 0,
            length => u128::MAX << (128 - length) >> (128 - width),
        };
        let at = lengths.iter().position(|of_length| of_length.mask == mask).unwrap_or_else(|| {
            lengths.push(OfLength { mask, nets: HashMap::new() });
            lengths.len() - 1
        });
        if let Some(of_length) = lengths.get_mut(at) {
            of_length.nets.insert(bits, allow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(allow: &[&str], deny: &[&str]) -> AddressTable {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        AddressTable::new(&AddressRule { allow: nets(allow), deny: nets(deny) })
    }

    fn check(table: &AddressTable, expected: &[(&str, bool)]) {
        for (client, allowed) in expected {
            assert_eq!(table.allows(client.parse().unwrap()), *allowed, "{client}");
        }
    }

    #[test]
    fn empty_lists_allow_all() {
        check(&table(&[], &[]), &[("192.0.2.1", true), ("2001:db8::1", true)]);
    }

    #[test]
    fn an_allow_list_alone_denies_the_rest() {
        let table = table(&["192.0.2.0/24", "2001:db8::/32"], &[]);
        check(&table, &[("192.0.2.255", true), ("192.0.3.0", false), ("2001:db8:ffff::", true), ("2001:db9::", false)]);
    }

    #[test]
    fn the_longest_match_decides_and_deny_at_equal_length() {
        let table = table(&["10.0.0.0/8", "10.1.2.3/32", "10.9.0.0/16"], &["10.1.0.0/16", "0.0.0.0/0", "10.9.0.0/16"]);
        check(&table, &[("10.2.0.1", true), ("10.1.2.2", false), ("10.1.2.3", true), ("10.9.1.1", false)]);
        check(&table, &[("11.0.0.1", false), ("::1", false)]);
        check(&super::AddressTable::new(&AddressRule::default()), &[("11.0.0.1", true)]);
    }

    #[test]
    fn a_deny_list_alone_allows_the_rest() {
        check(&table(&[], &["::/0"]), &[("2001:db8::1", false), ("192.0.2.1", true)]);
        check(&table(&[], &["0.0.0.0/0"]), &[("2001:db8::1", true), ("192.0.2.1", false)]);
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let plain = table(&["192.0.2.0/24"], &[]);
        check(&plain, &[("::ffff:192.0.2.9", true), ("::ffff:192.0.3.9", false)]);
        let mapped = table(&["::ffff:192.0.2.0/120"], &["::ffff:192.0.2.7/128"]);
        check(&mapped, &[("192.0.2.9", true), ("192.0.2.7", false), ("::ffff:192.0.2.9", true), ("192.0.3.9", false)]);
    }

    #[test]
    fn random_rules_agree_with_trying_every_network() {
        let mut seed = 7_u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let (mut allowed, mut checked) = (0, 0);
        for _ in 0..200 {
            let mut nets = |n: u64| -> Vec<IpNet> {
                (0..random(n))
                    .map(|_| {
                        let address = std::net::Ipv4Addr::from_bits((10 << 24 | random(1 << 12) << 12) as u32);
                        ipnet::Ipv4Net::new_assert(address, random(33) as u8).trunc().into()
                    })
                    .collect()
            };
            let rule = AddressRule { allow: nets(20), deny: nets(20) };
            let table = AddressTable::new(&rule);
            for _ in 0..50 {
                let client = IpAddr::from(std::net::Ipv4Addr::from_bits((10 << 24 | random(1 << 24)) as u32));
                let longest = |nets: &[IpNet]| {
                    nets.iter().filter(|net| net.contains(&client)).map(|net| i16::from(net.prefix_len())).max()
                };
                let expected = match (longest(&rule.allow), longest(&rule.deny)) {
                    (None, None) => rule.allow.is_empty(),
                    (allow, deny) => allow.unwrap_or(-1) > deny.unwrap_or(-1),
                };
                assert_eq!(table.allows(client), expected, "{client} of {rule:?}");
                allowed += u32::from(expected);
                checked += 1;
            }
        }
        assert!((checked / 10..checked * 9 / 10).contains(&allowed), "{allowed} of {checked}");
    }
}
