//! What channels have in common.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shoal_link::Channel;
use shoal_link::access::Access;
use shoal_link::channel::{AddressRule, CachePolicy, CorsPolicy, ForwardPolicy, NameRule};

use super::cors::Cors;
use super::error::FieldError;

/// Rules that many channels of a snapshot have, kept once: then they take no memory for each, and when ten thousand channels are
/// asked for in turn they are in the processor's caches all the same.
#[derive(Default)]
pub(super) struct Common<'s> {
    tenants: HashSet<Arc<str>>,
    cache: HashMap<&'s CachePolicy, Arc<CachePolicy>>,
    forward: HashMap<&'s ForwardPolicy, Arc<ForwardPolicy>>,
    access: HashMap<(&'s AddressRule, &'s NameRule, &'s NameRule), Arc<Access>>,
    cors: HashMap<&'s CorsPolicy, Arc<Cors>>,
}

impl<'s> Common<'s> {
    pub(super) fn tenant(&mut self, raw: &Channel) -> Arc<str> {
        if let Some(tenant) = self.tenants.get(raw.tenant.as_str()) {
            return tenant.clone();
        }
        let tenant: Arc<str> = raw.tenant.as_str().into();
        self.tenants.insert(tenant.clone());
        tenant
    }

    pub(super) fn cache(&mut self, raw: &'s Channel) -> Arc<CachePolicy> {
        self.cache.entry(&raw.cache).or_insert_with(|| Arc::new(raw.cache.clone())).clone()
    }

    pub(super) fn forward(&mut self, raw: &'s Channel) -> Arc<ForwardPolicy> {
        self.forward.entry(&raw.forward).or_insert_with(|| Arc::new(raw.forward.clone())).clone()
    }

    pub(super) fn access(&mut self, raw: &'s Channel) -> Result<Arc<Access>, FieldError> {
        let policy = &raw.access;
        let rules = (&policy.address, &policy.referer, &policy.user_agent);
        if let Some(access) = self.access.get(&rules) {
            return Ok(access.clone());
        }
        let access = Arc::new(Access::compile(policy)?);
        self.access.insert(rules, access.clone());
        Ok(access)
    }

    pub(super) fn cors(&mut self, raw: &'s Channel) -> Result<Arc<Cors>, FieldError> {
        if let Some(cors) = self.cors.get(&raw.cors) {
            return Ok(cors.clone());
        }
        let cors = Arc::new(Cors::compile(&raw.cors)?);
        self.cors.insert(&raw.cors, cors.clone());
        Ok(cors)
    }
}
