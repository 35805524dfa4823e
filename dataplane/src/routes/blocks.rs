//! Whom nothing is served.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use shoal_link::Block;
use shoal_link::block::BLOCKS_MAX;

use super::RoutesError;

const _: () = assert!(BLOCKS_MAX <= shoal_probes::maps::BLOCKED as usize);

/// Networks by length and first bits, IPv4 as what it is mapped to in IPv6. As many look-ups as there are lengths; none where nobody is
/// blocked.
#[derive(Debug, Default)]
pub struct Blocks {
    lengths: Vec<(u8, HashMap<u128, u64>)>,
    networks: Vec<(IpNet, u64)>,
}

impl Blocks {
    pub(super) fn compile(blocks: &[Block]) -> Result<Self, RoutesError> {
        let mut compiled = Self::default();
        for family in [true, false] {
            let count = blocks.iter().filter(|block| matches!(block.network, IpNet::V4(_)) == family).count();
            if count > BLOCKS_MAX {
                let problem = format!("there is room for {BLOCKS_MAX} of a family; block larger ones instead");
                return Err(RoutesError::blocks(&count.to_string(), problem));
            }
        }
        for block in blocks {
            let until = block.until.unwrap_or(u64::MAX);
            let network = block.network.trunc();
            let length = match network {
                IpNet::V4(v4) => v4.prefix_len() + 96,
                IpNet::V6(v6) => v6.prefix_len(),
            };
            let at = match compiled.lengths.iter().position(|(other, _)| *other == length) {
                Some(at) => at,
                None => {
                    compiled.lengths.push((length, HashMap::new()));
                    compiled.lengths.len() - 1
                }
            };
            let held = compiled.lengths[at].1.entry(bits(network.network())).or_insert(until);
            *held = until.max(*held);
            compiled.networks.push((network, until));
        }
        Ok(compiled)
    }

    /// Whether nothing is to be served to this address at this time, in Unix seconds.
    pub fn contain(&self, address: IpAddr, now: u64) -> bool {
        if self.lengths.is_empty() {
            return false;
        }
        let bits = bits(address);
        self.lengths.iter().any(|(length, networks)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
            networks.get(&(bits & mask)).is_some_and(|until| *until > now)
        })
    }

    /// The networks that are blocked at this time.
    pub fn networks(&self, now: u64) -> impl Iterator<Item = IpNet> {
        self.networks.iter().filter(move |(_, until)| *until > now).map(|(network, _)| *network)
    }

    /// When the first of those ends.
    pub fn next_end(&self, now: u64) -> Option<u64> {
        self.networks.iter().map(|(_, until)| *until).filter(|until| *until > now).min()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(network: &str, until: Option<u64>) -> Block {
        Block { network: network.parse().unwrap(), until, reason: String::new(), since: 0 }
    }

    #[test]
    fn who_is_blocked_is_found_in_either_form_and_until_it_ends() {
        let all = [block("192.0.2.0/24", None), block("198.51.100.7/32", Some(100)), block("2001:db8::/33", Some(50))];
        let blocks = Blocks::compile(&all).unwrap();
        let at = |address: &str, now| blocks.contain(address.parse().unwrap(), now);
        assert!(at("192.0.2.255", u64::MAX - 1) && at("::ffff:192.0.2.1", 0) && !at("192.0.3.0", 0));
        assert!(at("198.51.100.7", 99) && !at("198.51.100.7", 100) && !at("198.51.100.6", 0));
        assert!(at("2001:db8:7fff::1", 49) && !at("2001:db8:8000::1", 49) && !at("2001:db8::1", 50));
        assert_eq!(blocks.networks(60).count(), 2);
        assert_eq!([0, 50, 100].map(|now| blocks.next_end(now)), [Some(50), Some(100), Some(u64::MAX)]);
        assert!(!Blocks::default().contain([192, 0, 2, 1].into(), 0));
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let many: Vec<Block> = (0..=BLOCKS_MAX as u32)
            .map(|nth| block(&format!("{}/32", std::net::Ipv4Addr::from_bits(nth)), None))
            .collect();
        assert!(Blocks::compile(&many[1..]).is_ok());
        assert!(Blocks::compile(&many).unwrap_err().to_string().contains("blocks"));
    }
}
