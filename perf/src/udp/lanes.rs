//! Payloads through a relay: from an end to another, as ChannelData on a client's side.

use std::net::SocketAddr;

use shoal_stun::message::{CHANNEL_DATA_HEADER, ChannelData, channel_data_header};

use super::engine::Load;
use super::stamp::{Stamp, Stamper};

/// One way for payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The end that sends.
    pub from: usize,
    /// To whom.
    pub to: SocketAddr,
    /// In which channel, where a client sends.
    pub out: Option<u16>,
    /// The end that receives.
    pub at: usize,
    /// In which channel, where a client receives.
    pub into: Option<u16>,
    /// From whom.
    pub source: SocketAddr,
}

/// Payloads of one length through all of some lanes.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    stamper: Stamper,
    payload: usize,
}

impl Lanes {
    /// `payload` is its length; `key` makes this process's payloads its own.
    pub fn new(lanes: Vec<Lane>, payload: usize, key: u64) -> Self {
        Self { lanes, stamper: Stamper::new(key), payload }
    }

    fn of(&self, stamp: Stamp) -> Option<&Lane> {
        self.lanes.get(stamp.lane as usize)
    }
}

impl Load for Lanes {
    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn from(&self, lane: usize) -> usize {
        self.lanes[lane].from
    }

    fn to(&self, lane: usize) -> SocketAddr {
        self.lanes[lane].to
    }

    fn at(&self, lane: usize) -> usize {
        self.lanes[lane].at
    }

    fn len(&self, lane: usize) -> usize {
        self.payload + self.lanes[lane].out.map_or(0, |_| CHANNEL_DATA_HEADER)
    }

    fn write(&self, stamp: Stamp, out: &mut [u8]) {
        let payload = match self.of(stamp).and_then(|lane| lane.out) {
            None => out,
            Some(channel) => match out.split_first_chunk_mut() {
                None => return,
                Some((header, payload)) => {
                    *header = channel_data_header(channel, payload.len() as u16);
                    payload
                }
            },
        };
        self.stamper.write(stamp, payload);
    }

    fn read(&self, end: usize, source: SocketAddr, datagram: &[u8]) -> Result<Stamp, String> {
        // Which lane it is only the stamp says; all else has to fit to that.
        let framed = ChannelData::parse(datagram);
        let found = framed.and_then(|data| Some((self.stamper.read(data.data)?, Some(data.channel))));
        let found = found.or_else(|| Some((self.stamper.read(datagram)?, None)));
        let Some((stamp, channel)) = found else {
            return Err(format!("{} bytes from {source} are damaged, or none of ours", datagram.len()));
        };
        let Some(lane) = self.of(stamp) else { return Err(format!("lane {} does not exist", stamp.lane)) };
        if (lane.at, lane.into, lane.source) != (end, channel, source) {
            let Stamp { lane, number, .. } = stamp;
            return Err(format!("datagram {number} of lane {lane} came to the wrong place, {channel:?} from {source}"));
        }
        Ok(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> Lanes {
        let (client, peer) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let up = Lane { from: 0, to: client, out: Some(0x4000), at: 1, into: None, source: peer };
        let down = Lane { from: 1, to: peer, out: None, at: 0, into: Some(0x4001), source: client };
        Lanes::new(vec![up, down], 160, 5)
    }

    fn stamp(lane: u32) -> Stamp {
        Stamp { run: 1, lane, number: 2, at: 3 }
    }

    fn written(lanes: &Lanes, lane: u32) -> Vec<u8> {
        let mut bytes = vec![0; lanes.len(lane as usize)];
        lanes.write(stamp(lane), &mut bytes);
        bytes
    }

    #[test]
    fn a_channel_is_put_before_what_a_client_sends_and_taken_from_what_it_receives() {
        let lanes = lanes();
        let up = written(&lanes, 0);
        assert_eq!((up.len(), &up[..4]), (164, &[0x40, 0, 0, 160][..]));
        assert_eq!(lanes.read(1, lanes.lanes[0].source, &up[4..]), Ok(stamp(0)));
        let down = written(&lanes, 1);
        assert_eq!(down.len(), 160);
        let framed = [&[0x40, 1, 0, 160], &down[..]].concat();
        assert_eq!(lanes.read(0, lanes.lanes[1].source, &framed), Ok(stamp(1)));
    }

    #[test]
    fn another_end_source_or_channel_is_wrong_and_so_are_other_bytes() {
        let lanes = lanes();
        let (up, down) = (written(&lanes, 0), written(&lanes, 1));
        let [of_up, of_down] = [0, 1].map(|lane| lanes.lanes[lane].source);
        assert!(lanes.read(0, of_up, &up[4..]).is_err());
        assert!(lanes.read(1, of_down, &up[4..]).is_err());
        assert!(lanes.read(1, of_up, &up).is_err(), "the channel is still there");
        assert!(lanes.read(0, of_down, &[&[0x40, 2, 0, 160], &down[..]].concat()).is_err());
        assert!(lanes.read(0, of_down, &down).is_err(), "the channel is missing");
        let mut damaged = up[4..].to_vec();
        damaged[159] ^= 1;
        assert!(lanes.read(1, of_up, &damaged).is_err());
    }
}
