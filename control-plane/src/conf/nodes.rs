//! Which nodes a viewer is sent to: those that are alive, nearest first.

use crate::geo::{Place, distance_km};

/// Most nodes in an answer.
pub const MAX_NODES: usize = 4;
/// A node busier than this comes after all that are not, however near it is.
const BUSY_PERMILLE: u16 = 850;
/// Nodes whose distances differ by less are equally near.
const NEAR_KM: f64 = 200.0;
/// Busy fractions that differ by less are equal.
const BUSY_STEP: u16 = 100;

/// A node, as far as conf has to know it. Filled from what nodes tell over the link, of this instance or of others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// ISO 3166-2 code of where it stands, or the country's; may be empty.
    pub region: String,
    /// ISO 3166-1; may be empty.
    pub country: String,
    /// Degrees north and east.
    pub point: Option<(f64, f64)>,
    /// Base URLs of slices, as in `https://edge1.example.com`.
    pub urls: Vec<String>,
    /// Where it introduces peers and tells the type of a NAT: `host:port`.
    pub punch: Vec<String>,
    /// Where it relays: URIs of RFC 7065, as in `turn:edge1.example.com:3478?transport=udp`.
    pub relay: Vec<String>,
    /// Busy fraction of its busiest shard, 0 to 1000.
    pub busy_permille: u16,
    /// It takes no more viewers.
    pub draining: bool,
    /// It was heard of lately.
    pub alive: bool,
}

/// The nodes for a viewer at `place`, the best first: not too busy; in the same subdivision, the same country, elsewhere; by
/// distance; by load; by `spread`, which differs from viewer to viewer, so that equals share them.
pub fn choose<'n>(nodes: &'n [NodeView], place: &Place, spread: u64) -> Vec<&'n NodeView> {
    let mut usable: Vec<&NodeView> = nodes.iter().filter(|node| node.alive && !node.draining).collect();
    let key = |node: &NodeView| {
        let same = |one: &str, other: &str| !one.is_empty() && one == other;
        let region = match () {
            () if place.region.contains('-') && same(&node.region, &place.region) => 0,
            () if same(&node.country, &place.country) => 1,
            () => 2,
        };
        let steps = node.point.zip(place.point).map(|(node, viewer)| (distance_km(node, viewer) / NEAR_KM) as u32);
        let busy = node.busy_permille >= BUSY_PERMILLE;
        (busy, region, steps.unwrap_or(u32::MAX), node.busy_permille / BUSY_STEP, mix(spread, &node.name))
    };
    usable.sort_by_cached_key(|node| key(node));
    usable.truncate(MAX_NODES);
    usable
}

/// FNV-1a over the node's name, begun with the viewer's number, and stirred (SplitMix64's end): an order of nodes for each viewer.
fn mix(spread: u64, name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(spread ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // FNV alone leaves names that differ in their last letter in the same order for all.
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, region: &str, point: Option<(f64, f64)>, busy_permille: u16) -> NodeView {
        NodeView {
            name: name.to_owned(),
            region: region.to_owned(),
            country: region.split('-').next().unwrap().to_owned(),
            point,
            busy_permille,
            alive: true,
            ..NodeView::default()
        }
    }

    fn place(region: &str, point: Option<(f64, f64)>) -> Place {
        let country = region.split('-').next().unwrap();
        Place { country: country.into(), region: region.into(), point, ..Place::default() }
    }

    fn names(nodes: &[NodeView], place: &Place) -> Vec<String> {
        choose(nodes, place, 7).into_iter().map(|node| node.name.clone()).collect()
    }

    #[test]
    fn the_nearest_come_first_and_the_dead_and_drained_not_at_all() {
        let (berlin, munich, paris) = (Some((52.5, 13.4)), Some((48.1, 11.6)), Some((48.9, 2.4)));
        let nodes = [
            node("paris", "FR-75", paris, 0),
            node("munich", "DE-BY", munich, 0),
            node("berlin", "DE-BE", berlin, 500),
            node("nowhere", "", None, 0),
            NodeView { draining: true, ..node("drained", "DE-BE", berlin, 0) },
            NodeView { alive: false, ..node("dead", "DE-BE", berlin, 0) },
        ];
        assert_eq!(names(&nodes, &place("DE-BE", berlin)), ["berlin", "munich", "paris", "nowhere"]);
        assert_eq!(names(&nodes, &place("DE-HH", Some((53.6, 10.0)))), ["berlin", "munich", "paris", "nowhere"]);
        assert_eq!(names(&nodes, &place("FR-75", paris))[0], "paris");
    }

    #[test]
    fn a_node_at_its_limit_comes_last_and_load_decides_among_equals() {
        let nodes = [
            node("full", "DE-BE", None, 990),
            node("busy", "DE-BE", None, 600),
            node("idle", "DE-BE", None, 50),
            node("far", "US", None, 0),
        ];
        assert_eq!(names(&nodes, &place("DE-BE", None)), ["idle", "busy", "far", "full"]);
    }

    #[test]
    fn equals_share_the_viewers() {
        let nodes: Vec<NodeView> = (0..10).map(|at| node(&format!("edge{at}"), "", None, 0)).collect();
        let mut first = std::collections::HashMap::new();
        for viewer in 0..10_000_u64 {
            let spread = viewer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let chosen = choose(&nodes, &Place::default(), spread);
            assert_eq!(chosen.len(), MAX_NODES);
            *first.entry(chosen[0].name.clone()).or_insert(0) += 1;
        }
        assert!(first.len() == 10 && first.values().all(|count| (500..2_000).contains(count)), "{first:?}");
    }
}
