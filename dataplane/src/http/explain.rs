//! What would happen to a request: the same steps as for a real one, without taking them.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use shoal_http::request::{Method, RequestHead, parse_request};
use shoal_link::inspect::{Explanation, Probe, Step};
use shoal_ticket::Memory;

use super::admission::{self, Admitted, Denial};
use super::answer;
use super::context::Context;
use super::exchange::{passes, wants_revalidation};
use super::refusal::Refusal;
use crate::routes::{Channel, Limited};
use crate::slices::store::OpenRequest;
use crate::upstream::Asked;

/// Answers for the shard that owns the object, and the first shard for what concerns no object; the others say `None`.
pub async fn explain(ctx: &Rc<Context>, probe: &Probe) -> Option<Explanation> {
    let mut steps = Steps::default();
    let client = probe.client.map_or(IpAddr::from(Ipv4Addr::LOCALHOST), |client| client.to_canonical());
    let first_says = |explanation| (ctx.shard == 0).then_some(explanation);
    let text = match written(probe) {
        Ok(text) => text,
        Err(refusal) => return first_says(steps.refused("request", &refusal)),
    };
    let head = match parse_request(&text, &ctx.head_limits) {
        Ok(Some((head, _))) => head,
        Ok(None) => return first_says(steps.refused("request", &incomplete())),
        Err(error) => return first_says(steps.refused("request", &error.into())),
    };
    let passes = passes(ctx, &head);
    if let Err(refusal) = admission::check_method(&head, passes) {
        return first_says(steps.refused("request", &refusal));
    }
    if head.method == Method::Options {
        steps.add("request", "OPTIONS is answered by the edge itself, by the channel's CORS rules: 204");
        return first_says(steps.end("answered", None));
    }
    let cdn_loop = match admission::check_loop(ctx, &head) {
        Ok(passed) => passed,
        Err(refusal) => return first_says(steps.refused("request", &refusal)),
    };
    let admitted = match admission::admit(ctx, &head, client, false, &mut Memory::default()) {
        Ok(admitted) => admitted,
        Err(Denial { refusal, channel: None }) => return first_says(steps.refused("route", &refusal)),
        Err(Denial { refusal, channel: Some(channel) }) => {
            steps.route(&channel);
            return first_says(steps.refused("access", &refusal));
        }
    };
    let owner = ctx.slices.owner(&admitted.key);
    if owner != ctx.shard {
        return None;
    }
    steps.route(&admitted.channel);
    steps.access(&admitted, client);
    let path = String::from_utf8_lossy(admitted.key.path());
    steps.add("key", format!("channel `{}`, path `{path}`; owned by shard {owner}", admitted.channel.id));
    steps.limits(&admitted.channel);
    Some(object(ctx, &head, admitted, passes, cdn_loop, steps).await)
}

async fn object(
    ctx: &Rc<Context>,
    head: &RequestHead<'_>,
    admitted: Admitted,
    passes: bool,
    cdn_loop: Option<Arc<str>>,
    mut steps: Steps,
) -> Explanation {
    let store = ctx.slices.store();
    let Admitted { channel, key, .. } = admitted;
    let ranges = match answer::asked_ranges(head, ctx.settings.ranges_per_request) {
        Ok(ranges) => ranges,
        Err(refusal) => return steps.refused("request", &refusal),
    };
    let asked = Asked::read(head, &channel.forward, channel.verifier.is_some(), Vec::new());
    if let Some(asked) = &asked {
        let lines = String::from_utf8_lossy(&asked.lines);
        let lines: Vec<&str> = lines.lines().collect();
        steps.add("forward", format!("sources would see {} {}", asked.method, lines.join("; ")));
    }
    let sources = store.sources(&channel, &key);
    let stat = store.stat(ctx.shard, &key, &channel).await;
    let verdict = if passes {
        steps.add(
            "cache",
            "the method may change things: passed to one origin, once; a success throws away what is kept",
        );
        "pass"
    } else {
        let request = OpenRequest {
            want: answer::want(head, ranges.as_ref()),
            asked: asked.map(Arc::new),
            revalidate: channel.cache.client_revalidation && wants_revalidation(head),
            private: false,
            cdn_loop,
            key,
            channel,
        };
        let outlook = store.outlook(&request, &stat);
        steps.add("cache", outlook.why);
        outlook.cache.label()
    };
    let mut explanation = steps.end(verdict, None);
    (explanation.object, explanation.sources) = (Some(stat), sources);
    explanation
}

/// The request as it would be sent. What would be more than one line is not put in.
fn written(probe: &Probe) -> Result<Vec<u8>, Refusal> {
    let after_scheme = probe.url.strip_prefix("http://").or_else(|| probe.url.strip_prefix("https://"));
    let (host, target) = match after_scheme {
        Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
        None => ("", probe.url.as_str()),
    };
    let target = target.split('#').next().unwrap_or_default();
    let slash = if target.starts_with('/') { "" } else { "/" };
    let mut text = match host {
        // Without a host it is a request as HTTP/1.0 has it.
        "" => format!("{} {slash}{target} HTTP/1.0\r\n", probe.method),
        host => format!("{} {slash}{target} HTTP/1.1\r\nHost: {host}\r\n", probe.method),
    };
    for (name, value) in &probe.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let given =
        [&probe.url, &probe.method].into_iter().chain(probe.headers.iter().flat_map(|(name, value)| [name, value]));
    match given.into_iter().find(|text| text.contains(['\r', '\n'])) {
        Some(_) => Err(Refusal::new(400, "request", "URL, method and headers are single lines; leave out line ends")),
        None => Ok(text.into_bytes()),
    }
}

fn incomplete() -> Refusal {
    Refusal::new(431, "head_too_long", "the request head is longer than this node reads (http.head_bytes)")
}

/// The explanation as it grows.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, what: &str, says: impl Into<String>) {
        self.0.push(Step { what: what.to_owned(), says: says.into() });
    }

    fn route(&mut self, channel: &Channel) {
        let host = match &channel.host {
            Some(host) => format!("at host {host}"),
            None => "at any host".to_owned(),
        };
        self.add("route", format!("channel `{}` has prefix {} {host}", channel.id, channel.prefix));
    }

    fn access(&mut self, admitted: &Admitted, client: IpAddr) {
        self.add("access", format!("the rules on address, Referer and User-Agent let {client} pass"));
        let ticket = match (&admitted.channel.verifier, &admitted.session) {
            (None, _) => "none is asked for".to_owned(),
            (Some(_), None) => "valid".to_owned(),
            (Some(_), Some(session)) => format!("valid; usage is counted under session {}", session.as_str()),
        };
        self.add("ticket", ticket);
    }

    fn limits(&mut self, channel: &Channel) {
        let Some(limits) = &channel.limits else { return };
        let policy = limits.policy();
        let mut says = Vec::new();
        for (rate, unit) in [
            (policy.requests_per_second.into(), "requests per second"),
            (policy.bytes_per_second, "bytes per second"),
            (policy.response_bytes_per_second, "bytes per second and response"),
        ] {
            if rate > 0 {
                says.push(format!("{rate} {unit}"));
            }
        }
        let now = match limits.outlook(Instant::now()) {
            None => "there is room now",
            Some(Limited::Requests) => "used up now: 429",
            Some(Limited::Bytes) => "used up now: 503",
        };
        self.add("limits", format!("{}; {now}", says.join(", ")));
    }

    fn refused(mut self, what: &str, refusal: &Refusal) -> Explanation {
        self.add(what, format!("{} {}: {}", refusal.status, refusal.reason, refusal.message));
        self.end("refused", Some(refusal.status))
    }

    fn end(self, verdict: &str, status: Option<u16>) -> Explanation {
        Explanation { verdict: verdict.to_owned(), status, steps: self.0, object: None, sources: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(url: &str, headers: &[(&str, &str)]) -> Probe {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Probe { url: url.to_owned(), method: "GET".to_owned(), headers, client: None }
    }

    #[test]
    fn a_url_becomes_the_request_that_a_viewer_would_send() {
        let text = |probe| String::from_utf8(written(&probe).unwrap()).unwrap();
        assert_eq!(
            text(probe("https://cdn.test:8443/a/b?c=d#e", &[("Range", "bytes=0-1")])),
            "GET /a/b?c=d HTTP/1.1\r\nHost: cdn.test:8443\r\nRange: bytes=0-1\r\n\r\n"
        );
        assert_eq!(text(probe("/a", &[])), "GET /a HTTP/1.0\r\n\r\n");
        assert_eq!(text(probe("http://cdn.test", &[])), "GET / HTTP/1.1\r\nHost: cdn.test\r\n\r\n");
        assert_eq!(text(probe("http://cdn.test?x", &[])), "GET /?x HTTP/1.1\r\nHost: cdn.test\r\n\r\n");
    }

    #[test]
    fn nobody_adds_lines_of_his_own() {
        for bad in [probe("/a\r\nX: 1", &[]), probe("/a", &[("X", "1\n2")]), probe("/a", &[("X\r", "1")])] {
            assert_eq!(written(&bad).unwrap_err().status, 400, "{bad:?}");
        }
    }
}
