//! Tenants, and credentials of the relay.

use serde_json::{Value, json};
use shoal_control::api::{KeyName, SecretList, TenantPage, TurnCredential};
use shoal_link::Tenant;
use ureq::http::Method;

use crate::arguments::{NewSecret, Secrets, Tenants, Turn};
use crate::client::{Failure, encode};
use crate::input;
use crate::run::{Run, key_added, key_table, new_key};
use crate::table::{Align, Table};

impl Run {
    pub(crate) fn tenants(&self, command: &Tenants) -> Result<(), Failure> {
        match command {
            Tenants::List => {
                let tenants = self.every_tenant()?;
                self.print(&tenants, || tenant_table(&tenants))
            }
            Tenants::Get { id } => self.show(&one(id)),
            Tenants::Put { file } => {
                for (id, body) in input::list(file, "tenants")? {
                    let tenant: Tenant = self.client.call(Method::PUT, &one(&id), Some(&body))?;
                    self.print(&tenant, || format!("tenant {} is put\n", tenant.id))?;
                }
                Ok(())
            }
            Tenants::Delete { id } => {
                let gone: Value = self.client.call(Method::DELETE, &one(id), None)?;
                self.print(&gone, || format!("tenant {id} is deleted\n"))
            }
            Tenants::Secret(command) => self.secrets(command),
        }
    }

    fn every_tenant(&self) -> Result<Vec<Tenant>, Failure> {
        let mut tenants = Vec::new();
        let mut after = String::new();
        loop {
            let page: TenantPage = self.client.get("/tenants", &[("limit", "1000"), ("after", &after)])?;
            tenants.extend(page.items);
            match page.next {
                Some(next) => after = next,
                None => return Ok(tenants),
            }
        }
    }

    fn secrets(&self, command: &Secrets) -> Result<(), Failure> {
        match command {
            Secrets::List { tenant } => {
                let list: SecretList = self.client.get(&format!("{}/secrets", one(tenant)), &[])?;
                self.print(&list, || key_table("SECRET", &list.secrets))
            }
            Secrets::Add(new) => self.new_secret(new, "secrets"),
            Secrets::Rotate(new) => self.new_secret(new, "secrets/rotate"),
            Secrets::Remove { tenant, secret } => {
                let path = format!("{}/secrets/{}", one(tenant), encode(secret));
                let gone: Value = self.client.call(Method::DELETE, &path, None)?;
                self.print(&gone, || format!("secret {secret} of tenant {tenant} is removed\n"))
            }
        }
    }

    fn new_secret(&self, new: &NewSecret, path: &str) -> Result<(), Failure> {
        let body = new_key(new.id.as_deref(), new.secret_file.as_deref())?;
        let path = format!("{}/{path}", one(&new.tenant));
        let secret: KeyName = self.client.call(Method::POST, &path, Some(&body))?;
        self.print(&secret, || key_added(&format!("secret {} of tenant {}", secret.id, new.tenant), &secret))
    }

    pub(crate) fn turn(&self, turn: &Turn) -> Result<(), Failure> {
        let body = json!({"user": turn.user, "ttl_s": turn.ttl});
        let path = format!("{}/credentials", one(&turn.tenant));
        let made: TurnCredential = self.client.call(Method::POST, &path, Some(&body))?;
        self.print(&made, || format!("username: {}\npassword: {}\n", made.username, made.password))
    }
}

fn one(tenant: &str) -> String {
    format!("/tenants/{}", encode(tenant))
}

pub(crate) fn tenant_table(tenants: &[Tenant]) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("RELAY", Align::Left),
        ("ALLOCATIONS", Align::Right),
        ("PER USER", Align::Right),
        ("ALLOW", Align::Left),
        ("DENY", Align::Left),
    ]);
    for Tenant { id, relay } in tenants {
        let limit = |most: u32| if most == 0 { "no limit".to_owned() } else { most.to_string() };
        let list = |networks: &[_]| networks.iter().map(ToString::to_string).collect::<Vec<String>>().join(",");
        table.row(vec![
            id.clone(),
            relay.secrets.first().map_or_else(|| "off".to_owned(), |secret| format!("secret {}", secret.id)),
            limit(relay.allocations),
            limit(relay.allocations_per_user),
            list(&relay.allow),
            list(&relay.deny),
        ]);
    }
    table.to_string()
}
