//! Who is blocked.

use serde_json::{Value, json};
use shoal_control::api::BlockList;
use shoal_link::Block;
use ureq::http::Method;

use crate::client::{Failure, encode};
use crate::run::{Run, age, ahead};
use crate::table::{Align, Table};

impl Run {
    pub(crate) fn block(
        &self,
        network: &str,
        seconds: Option<u64>,
        reason: &str,
        loopback: bool,
    ) -> Result<(), Failure> {
        let body = json!({"network": network, "seconds": seconds, "reason": reason, "loopback": loopback});
        let block: Block = self.client.call(Method::POST, "/blocks", Some(&body))?;
        self.print(&block, || match block.until {
            Some(until) => format!("{} is blocked, {}\n", block.network, ahead(until)),
            None => format!("{} is blocked\n", block.network),
        })
    }

    pub(crate) fn unblock(&self, network: &str) -> Result<(), Failure> {
        let gone: Value = self.client.call(Method::DELETE, &format!("/blocks/{}", encode(network)), None)?;
        self.print(&gone, || format!("{network} is not blocked any more\n"))
    }

    pub(crate) fn blocks(&self) -> Result<(), Failure> {
        let list: BlockList = self.client.get("/blocks", &[])?;
        self.print(&list, || {
            let mut table = Table::new(&[
                ("NETWORK", Align::Left),
                ("SINCE", Align::Left),
                ("ENDS", Align::Left),
                ("REASON", Align::Left),
            ]);
            for block in &list.items {
                table.row(vec![
                    block.network.to_string(),
                    age(block.since * 1_000),
                    block.until.map_or_else(|| "never".to_owned(), ahead),
                    block.reason.clone(),
                ]);
            }
            table.to_string()
        })
    }
}
