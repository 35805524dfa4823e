//! Tenants: what nodes are sent, what the relay's users are given, and what the ledger has of them.

use serde_json::{Value, json};
use shoal_link::DataMessage;
use shoal_link::ledger::{Batch, Entry, Kind};
use shoal_link::tenant::DEFAULT;
use shoal_stun::credentials::{TimedName, time_limited_password};

use crate::ctl::Ctl;
use crate::support::{Control, Dir, Node, until};

#[test]
fn tenants_go_to_nodes_and_outlive_a_kill() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    assert_eq!(node.snapshot().tenants, []);
    control.put("a");
    let first = node.snapshot();
    let tenant = json!({"relay": {
        "secrets": [{"id": "s1", "secret": "the-first-secret-of-all"}],
        "allow": ["10.0.0.0/8"], "deny": ["192.0.2.0/24"], "allocations": 100, "allocations_per_user": 3,
    }});
    assert_eq!(control.call("PUT", "/api/v1/tenants/acme", &tenant).0, 201);
    let second = node.snapshot();
    assert!(second.version > first.version && second.channels == first.channels);
    let relay = &second.tenants[0].relay;
    assert_eq!((&*second.tenants[0].id, &*relay.secrets[0].secret), ("acme", "the-first-secret-of-all"));
    assert_eq!((relay.allocations, relay.allocations_per_user), (100, 3));
    assert_eq!((relay.allow[0].to_string(), relay.deny[0].to_string()), ("10.0.0.0/8".into(), "192.0.2.0/24".into()));
    assert_eq!(control.metric("shoal_control_tenants"), Some(1.0));

    // What is not valid makes no version.
    let bad = json!({"relay": {"secrets": [{"id": "s1", "secret": "short"}]}});
    assert_eq!(control.call("PUT", "/api/v1/tenants/acme", &bad).0, 422);
    assert_eq!(control.call("POST", "/api/v1/tenants/acme/secrets/rotate", &json!({})).0, 201);
    let third = node.snapshot();
    assert!(third.version > second.version);
    assert_eq!((third.tenants[0].relay.secrets.len(), &third.tenants[0].relay.secrets[1]), (2, &relay.secrets[0]));

    drop(node);
    control.kill();
    let control = Control::start(&dir);
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    assert_eq!(node.snapshot(), third);
    assert_eq!(control.call("DELETE", "/api/v1/tenants/acme", &Value::Null).0, 204);
    let fourth = node.snapshot();
    assert!(fourth.version > third.version && fourth.tenants.is_empty() && fourth.channels.len() == 1);
}

#[test]
fn an_operator_s_way_from_a_tenant_to_its_usage() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let ctl = Ctl::new(&dir, &control);
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    node.snapshot();

    let toml = "[[tenants]]\nid = \"acme\"\nrelay.allow = [\"10.0.0.0/8\"]\n[[tenants]]\nid = \"default\"\n";
    let (code, out, _) = ctl.run_with(&["tenants", "put", "-f", "-"], toml);
    assert_eq!((code, &*out), (0, "tenant acme is put\ntenant default is put\n"));
    let (code, _, err) = ctl.run(&["turn", "acme"]);
    assert!(code == 1 && err.contains("no secret"), "{err}");
    assert!(ctl.good(&["tenant", "secret", "add", "acme", "--id", "s1"]).contains("\nsecret: "));
    let (code, out, _) = ctl.run_with(
        &["tenant", "secret", "rotate", "acme", "--id", "s2", "--secret-file", "-"],
        "chosen by an operator\n",
    );
    assert_eq!((code, &*out), (0, "secret s2 of tenant acme signs from now on\n"));
    assert_eq!(ctl.good(&["tenant", "secret", "list", "acme"]), "SECRET  SIGNS\ns2      yes\ns1\n");
    let text = ctl.good(&["tenant", "get", "acme"]);
    assert!(text.contains("***") && !text.contains("chosen"), "{text}");
    // What was read can be put again, though it holds no secret.
    assert_eq!(ctl.run_with(&["tenant", "put", "-f", "-"], &text).0, 0);
    ctl.good(&["tenant", "secret", "remove", "acme", "s1"]);
    ctl.good(&["tenant", "secret", "add", "default"]);
    assert_eq!(
        ctl.good(&["tenant", "list"]).lines().next_back().map(|line| line.starts_with("default  secret ")),
        Some(true)
    );
    assert_eq!(ctl.json(&["tenant", "list"])[0]["relay"]["allow"], json!(["10.0.0.0/8"]));

    // What is printed is what a node with the newest snapshot takes.
    let newest = control.get("/api/v1/snapshot")["version"].as_u64();
    let tenants = until("the node has the newest snapshot", || {
        let snapshot = node.snapshot();
        (Some(snapshot.version) >= newest && snapshot.tenants.len() == 2).then_some(snapshot.tenants)
    });
    for (tenant, named) in [("acme", "acme"), (DEFAULT, "")] {
        let made = ctl.good(&["turn", tenant, "--user", "alice", "--ttl", "60"]);
        let lines: Vec<&str> = made.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
        let [username, password] = lines[..] else { panic!("{made}") };
        let name = TimedName::parse(username).unwrap();
        assert_eq!((name.tenant, name.user), (named, "alice"));
        let secrets = &tenants.iter().find(|found| found.id == tenant).unwrap().relay.secrets;
        assert_eq!(password.as_bytes(), time_limited_password(secrets[0].secret.as_bytes(), username));
    }
    assert_eq!(ctl.json(&["turn", "acme"])["ttl"], 86_400);
    let (code, _, err) = ctl.run(&["turn", "default", "--user", "acme:alice"]);
    assert!(code == 1 && err.contains("user") && err.contains("colon"), "{err}");
    let (code, _, err) = ctl.run_with(&["tenant", "put", "-f", "-"], "{\"relay\": {}}");
    assert!(code == 2 && err.contains("`id`"), "{err}");

    // What it relayed belongs to the tenant and its user, and to no channel.
    let relayed = |tenant: &str, user: &str, bytes| Entry {
        tenant: tenant.into(),
        channel: "".into(),
        session: user.into(),
        kind: Kind::Relay,
        origin: "".into(),
        requests: 1,
        body_bytes: bytes,
        wire_bytes: bytes + 40,
    };
    let entries = vec![relayed("acme", "alice", 1000), relayed("acme", "bob", 10), relayed("default", "alice", 5)];
    node.send(&DataMessage::Ledger(Batch { boot: 1, sequence: 1, start_ms: 1, end_ms: 2, entries }));
    let usage = until("usage is there", || {
        let table = ctl.good(&["ledger", "--kind", "relay", "--group", "tenant,channel,session,kind"]);
        table.contains("1000").then_some(table)
    });
    assert_eq!(
        usage,
        "TENANT   CHANNEL  SESSION  KIND   REQUESTS  BODY BYTES  WIRE BYTES\n\
         acme     -        alice    relay         1        1000        1040\n\
         acme     -        bob      relay         1          10          50\n\
         default  -        alice    relay         1           5          45\n"
    );
    assert_eq!(
        ctl.json(&["ledger", "--tenant", "acme"]),
        json!([{"channel": "", "kind": "relay", "requests": 2, "body_bytes": 1010, "wire_bytes": 1090}])
    );
    assert_eq!(
        control.get("/api/v1/ledger?channel=&group=session")["items"][0],
        json!({"session": "alice", "requests": 2, "body_bytes": 1005, "wire_bytes": 1085})
    );
    assert_eq!(control.metric("shoal_control_ledger_body_bytes_total{kind=\"relay\"}"), Some(1015.0));
    ctl.good(&["tenant", "delete", "acme"]);
    let (code, _, err) = ctl.run(&["tenant", "get", "acme"]);
    assert!(code == 1 && err.contains("404"), "{err}");
    assert_eq!(ctl.json(&["ledger", "--tenant", "acme", "--group", ""])[0]["body_bytes"], 1010);
}
