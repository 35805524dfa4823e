//! What is printed.

use serde_json::{Value, json};
use shoal_peer::discover::Found;
use shoal_peer::nat::Nat;
use shoal_peer::register::Refusal;
use shoal_peer::session::{Event, Failure, Session};
use shoal_peer::transfer::Verdict;
use shoal_stun::nat::{Behaviour, NatType};

/// What discovery has found.
pub(crate) fn found(found: &Found) -> Value {
    let mut line = nat(&found.nat);
    line["event"] = json!("found");
    line["type"] = json!(found.report.kind.map(NatType::name));
    line["mapped"] = json!(found.report.mapped);
    line
}

/// Something that happened.
pub(crate) fn event(session: &Session, event: &Event) -> Value {
    match event {
        Event::Found(found) => self::found(found),
        Event::Registered(mapped) => {
            json!({"event": "registered", "mapped": mapped, "relayed": session.relayed()})
        }
        Event::Finished(finished) => {
            let introduction = &finished.introduction;
            json!({
                "event": "finished",
                "path": if finished.relay { "relay" } else { "direct" },
                "peer": introduction.peer.to_string(),
                "to": finished.path.to,
                "mapped": session.mapped(),
                "relayed": session.relayed(),
                "peer_mapped": introduction.address,
                "peer_relayed": introduction.relayed,
                "type": session.kind().map(NatType::name),
                "nat": nat(session.nat()),
                "peer_nat": nat(&introduction.nat),
                "connected_ms": finished.connected,
                "since_asked_ms": finished.connected - finished.asked,
                "transfer_ms": finished.finished - finished.connected,
                "bytes": finished.bytes,
                "right": finished.verdict == Verdict::Right,
                "refused": refusals(session.refusals()),
            })
        }
        Event::Failed(failure) => {
            let code = match failure {
                Failure::Refused(refusal) | Failure::NoRelay(Some(refusal)) => Some(refusal.code),
                _ => None,
            };
            failed(session, &failure.to_string(), code)
        }
    }
}

/// The time is over, and what was wanted has not come about.
pub(crate) fn out_of_time(session: &Session) -> Value {
    failed(session, "out of time", None)
}

fn failed(session: &Session, reason: &str, code: Option<u16>) -> Value {
    json!({
        "event": "failed",
        "path": null,
        "reason": reason,
        "code": code,
        "mapped": session.mapped(),
        "relayed": session.relayed(),
        "type": session.kind().map(NatType::name),
        "nat": nat(session.nat()),
        "refused": refusals(session.refusals()),
    })
}

fn refusals(refusals: &[Refusal]) -> Vec<Value> {
    refusals.iter().map(|refusal| json!({"code": refusal.code, "reason": refusal.reason})).collect()
}

fn nat(nat: &Nat) -> Value {
    let name = |behaviour: Option<Behaviour>| {
        behaviour.map(|behaviour| match behaviour {
            Behaviour::EndpointIndependent => "endpoint-independent",
            Behaviour::AddressDependent => "address-dependent",
            Behaviour::AddressAndPortDependent => "address-and-port-dependent",
        })
    };
    json!({"mapping": name(nat.mapping), "filtering": name(nat.filtering), "step": nat.step, "newest": nat.newest})
}
