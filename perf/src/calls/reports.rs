//! Reports of SDKs, many sessions, each with its pass.

use super::announce::answer;
use super::{Came, Script, mixed};
use crate::response::Parser;

/// Batches of reports, of one session each.
#[derive(Debug)]
pub struct Reports {
    /// Host header.
    pub host: String,
    /// Path that batches are posted to.
    pub path: String,
    /// A session's pass, and how many reports it has sent.
    sessions: Vec<(String, u64)>,
    /// Reports in a batch.
    pub batch: u64,
    made: u64,
    body: String,
    parser: Parser,
}

impl Reports {
    /// Nothing reported yet; `first` is the number of reports that each session has sent before.
    pub fn new(host: String, path: String, passes: Vec<String>, batch: u64, first: u64) -> Self {
        let sessions = passes.into_iter().map(|pass| (pass, first)).collect();
        Self { host, path, sessions, batch, made: 0, body: String::new(), parser: Parser::default() }
    }
}

impl Script for Reports {
    fn greeting(&mut self, _: usize, _: &mut Vec<u8>) {}

    fn call(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        let count = self.sessions.len().max(1) as u64;
        let Some((pass, sequence)) = self.sessions.get_mut((self.made % count) as usize) else { return false };
        self.made += 1;
        self.body.clear();
        self.body.push_str(r#"{"v":1,"reports":["#);
        for nth in 0..self.batch {
            *sequence += 1;
            let noise = mixed(self.made ^ (*sequence << 32));
            self.body.push_str(if nth == 0 { "" } else { "," });
            self.body.push_str(&format!(
                r#"{{"seq":{sequence},"edge_bytes":{},"direct_bytes":{},"p2p_in_bytes":{},"p2p_out_bytes":{},"stalls":{},"playing_ms":16000,"platform":"html5","sdk":"1.4.2"}}"#,
                noise % 4_000_000,
                (noise >> 20) % 1_000_000,
                (noise >> 32) % 6_000_000,
                (noise >> 40) % 6_000_000,
                u64::from(noise.is_multiple_of(50)),
            ));
        }
        self.body.push_str("]}");
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {pass}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.path,
            self.host,
            self.body.len()
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(self.body.as_bytes());
        true
    }

    fn came(&mut self, _: usize, bytes: &[u8], _: &mut Vec<u8>) -> Result<Came, String> {
        answer(&mut self.parser, bytes, |_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_take_turns_and_number_their_reports() {
        let passes = vec!["one".to_owned(), "two".to_owned()];
        let mut script = Reports::new("h".to_owned(), "/v1/reports".to_owned(), passes, 2, 10);
        let mut sent = |pass: &str| {
            let mut out = Vec::new();
            assert!(script.call(0, &mut out));
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Bearer {pass}\r\n")), "{head}");
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            [0, 1].map(|nth| body["reports"][nth]["seq"].as_u64().unwrap())
        };
        assert_eq!([sent("one"), sent("two"), sent("one")], [[11, 12], [11, 12], [13, 14]]);
    }
}
