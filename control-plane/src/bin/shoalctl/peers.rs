//! Peers that are registered at nodes.

use shoal_control::api::{PeerPage, PeerView};
use shoal_link::observation::Behaviour;

use crate::client::{Failure, encode};
use crate::run::{Run, age};
use crate::table::{Align, Table};

impl Run {
    pub(crate) fn peers(&self, channel: &str, peer: Option<&str>) -> Result<(), Failure> {
        let path = format!("/channels/{}/peers", encode(channel));
        let mut peers: Vec<PeerView> = Vec::new();
        if let Some(peer) = peer {
            peers.push(self.client.get(&format!("{path}/{}", encode(peer)), &[])?);
            return self.print(&peers, || peer_table(&peers));
        }
        let mut after = None;
        loop {
            let mut query = vec![("limit", "1000")];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page: PeerPage = self.client.get(&path, &query)?;
            peers.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return self.print(&peers, || peer_table(&peers)),
            }
        }
    }
}

fn peer_table(peers: &[PeerView]) -> String {
    let mut table = Table::new(&[
        ("PEER", Align::Left),
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("MAPPING", Align::Left),
        ("FILTERING", Align::Left),
        ("PORTS", Align::Left),
        ("TOLD", Align::Left),
    ]);
    for PeerView { peer, registrations } in peers {
        for registration in registrations {
            table.row(vec![
                peer.clone(),
                registration.node.clone(),
                registration.address.to_string(),
                behaviour(registration.mapping).to_owned(),
                behaviour(registration.filtering).to_owned(),
                if registration.predictable { "predictable" } else { "" }.to_owned(),
                age(registration.told_ms),
            ]);
        }
    }
    table.to_string()
}

fn behaviour(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Unknown => "unknown",
        Behaviour::EndpointIndependent => "endpoint-independent",
        Behaviour::AddressDependent => "address-dependent",
        Behaviour::AddressAndPortDependent => "address-and-port-dependent",
    }
}
