use serde_json::{Value, json};

use super::compiled::hundredth;
use super::*;
use crate::fuzzing::Random;
use crate::version::Version;

const NOON: u64 = 1_700_049_600; // 2023-11-15 12:00:00 UTC

fn rule(id: &str, mut fields: Value) -> Rule {
    fields["id"] = json!(id);
    fields["tenant"] = json!("acme");
    let rule: Rule = serde_json::from_value(fields).unwrap();
    assert_eq!(rule.check(), [], "{id}");
    rule
}

fn subject() -> Subject<'static> {
    Subject {
        tenant: "acme",
        app: "player",
        channel: "room1",
        asset: Some("vod/a/index.m3u8"),
        platform: Some("html5"),
        sdk: Some("2.5.0"),
        country: "DE",
        region: "DE-BE",
        address: Some("192.0.2.7".parse().unwrap()),
        viewer: Some("viewer-1"),
        viewers: Some(10),
        now: Some(NOON),
    }
}

fn decide(rules: &[Rule]) -> Decision {
    Engine::new(rules, []).decide(&subject())
}

#[test]
fn without_rules_it_is_on_with_defaults() {
    let decision = decide(&[]);
    assert_eq!((decision.p2p, decision.reason, decision.rule), (true, Reason::Default, None));
    assert_eq!(decision.parameters, Settled::default());
}

/// Each of these is more specific than all before it.
#[test]
fn the_order_of_specificity_is_as_documented() {
    let ladder = [
        json!({}),
        json!({"apps": ["player"]}),
        json!({"channels": "*"}),
        json!({"channels": "r*"}),
        json!({"channels": "ro*1"}),
        json!({"channels": "room1"}),
        json!({"assets": "*"}),
        json!({"assets": "*.m3u8"}),
        json!({"assets": "vod/a/index.m3u8"}),
        json!({"platforms": ["html5", "ios"]}),
        json!({"sdk": {"min": "2.5"}}),
        json!({"sdk": {"min": "2.0", "below": "3"}}),
        json!({"regions": ["DE"]}),
        json!({"regions": ["FR", "DE-BE"]}),
        json!({"networks": ["192.0.0.0/8"]}),
        json!({"networks": ["192.0.0.0/8", "192.0.2.0/24"]}),
        json!({"percentage": 100}),
        json!({"viewers": {"min": 10}}),
        json!({"window": {"daily": {"from": "11:00", "to": "13:00"}}}),
    ];
    let rules: Vec<Rule> = ladder
        .iter()
        .enumerate()
        .map(|(at, fields)| {
            let mut fields = fields.clone();
            fields["p2p"] = json!(at % 2 == 0);
            // The later the id, the lower it would come if ids decided.
            rule(&format!("rule-{at:02}"), fields)
        })
        .collect();
    for last in 0..rules.len() {
        let decision = decide(&rules[..=last]);
        assert_eq!(decision.rule.as_deref(), Some(format!("rule-{last:02}").as_str()));
        assert_eq!(decision.p2p, last % 2 == 0);
        // The order in which they come does not count.
        let mut backwards = rules[..=last].to_vec();
        backwards.reverse();
        assert_eq!(decide(&backwards), decision);
    }
    // Many little things do not make up for one more specific.
    let all = rule("all", json!({"apps": ["player"], "channels": "room1", "platforms": ["html5"], "p2p": false}));
    let decision = decide(&[all, rules[17].clone()]);
    assert_eq!(decision.rule.as_deref(), Some("rule-17"));
}

#[test]
fn each_parameter_is_decided_on_its_own_and_ties_by_id() {
    let rules = [
        rule("tenant", json!({"parameters": {"peers_max": 1, "stall_ms": 100, "relay_only": true}})),
        rule("room", json!({"channels": "room1", "parameters": {"peers_max": 2}})),
        rule("b", json!({"platforms": ["html5"], "parameters": {"prefetch_s": 5}, "p2p": true})),
        rule("a", json!({"platforms": ["html5"], "parameters": {"prefetch_s": 7}})),
        rule("off", json!({"enabled": false, "window": {"from": 0}, "p2p": false})),
    ];
    let decision = decide(&rules);
    let expected = Settled { peers_max: 2, stall_ms: 100, relay_only: true, prefetch_s: 7, ..Settled::default() };
    assert_eq!(decision.parameters, expected);
    assert_eq!((decision.p2p, decision.rule.as_deref()), (true, Some("b")));
    let explained = Engine::new(&rules, []).explain(&subject());
    let listed: Vec<(&str, bool, String)> = explained
        .rules
        .iter()
        .map(|verdict| (verdict.rule.as_str(), verdict.holds, verdict.decided.join(" ")))
        .collect();
    assert_eq!(
        listed,
        [
            ("a", true, "prefetch_s".to_owned()),
            ("b", true, "p2p".to_owned()),
            ("room", true, "peers_max".to_owned()),
            ("tenant", true, "relay_only stall_ms".to_owned()),
            ("off", false, String::new()),
        ]
    );
    assert_eq!((explained.rule.as_deref(), explained.left_out), (Some("b"), 0));
}

#[test]
fn a_switch_wins_over_every_rule() {
    let rules = [rule("on", json!({"window": {"from": 0}, "p2p": true}))];
    let switch = |channel: Option<&str>, asset: Option<&str>| Switch {
        tenant: "acme".to_owned(),
        channel: channel.map(str::to_owned),
        asset: asset.map(str::to_owned),
    };
    for (switches, reason) in [
        (vec![switch(None, None)], Reason::SwitchTenant),
        (vec![switch(Some("room1"), None)], Reason::SwitchChannel),
        (vec![switch(Some("room1"), Some("vod/a/index.m3u8"))], Reason::SwitchAsset),
        (vec![switch(Some("room2"), None), switch(Some("room1"), Some("x"))], Reason::Rule),
    ] {
        let engine = Engine::new(&rules, switches);
        let decision = engine.decide(&subject());
        assert_eq!((decision.p2p, decision.reason), (reason == Reason::Rule, reason));
        let explained = engine.explain(&subject());
        assert_eq!(explained.rules[0].decided.is_empty(), reason != Reason::Rule);
    }
}

#[test]
fn what_is_not_known_holds_no_rule_that_names_it() {
    let nobody = Subject {
        asset: None,
        platform: None,
        sdk: None,
        country: "",
        region: "",
        address: None,
        viewer: None,
        viewers: None,
        now: None,
        ..subject()
    };
    for fields in [
        json!({"assets": "*"}),
        json!({"platforms": ["html5"]}),
        json!({"sdk": {"min": "0"}}),
        json!({"regions": ["DE"]}),
        json!({"networks": ["0.0.0.0/0", "::/0"]}),
        json!({"percentage": 100}),
        json!({"viewers": {"max": 1000}}),
        json!({"window": {"from": 0}}),
    ] {
        let engine = Engine::new(&[rule("r", json!({"p2p": false}))], []);
        assert!(!engine.decide(&nobody).p2p);
        let mut named = fields.clone();
        named["p2p"] = json!(false);
        let engine = Engine::new(&[rule("r", named)], []);
        assert!(engine.decide(&nobody).p2p && !engine.decide(&subject()).p2p, "{fields}");
        let explained = engine.explain(&nobody);
        assert!(!explained.rules[0].holds && !explained.rules[0].checks[0].holds);
        assert!(explained.rules[0].checks[0].says.ends_with("is unknown") || fields["window"].is_object());
    }
    // Other tenants' rules are other tenants'.
    let other = Subject { tenant: "other", ..subject() };
    let engine = Engine::new(&[rule("r", json!({"p2p": false}))], []);
    assert!(engine.decide(&other).p2p && engine.explain(&other).rules.is_empty());
}

#[test]
fn windows_begin_and_end_to_the_second() {
    let holds = |window: Value, now: u64| {
        let engine = Engine::new(&[rule("r", json!({"window": window, "p2p": false}))], []);
        !engine.decide(&Subject { now: Some(now), ..subject() }).p2p
    };
    let once = json!({"from": 100, "to": 200});
    assert_eq!([99, 100, 199, 200].map(|now| holds(once.clone(), now)), [false, true, true, false]);
    let day = json!({"daily": {"from": "12:00", "to": "13:30"}});
    let edges = [NOON - 1, NOON, NOON + 5_399, NOON + 5_400];
    assert_eq!(edges.map(|now| holds(day.clone(), now)), [false, true, true, false]);
    let night = json!({"daily": {"from": "22:00", "to": "06:00"}});
    let edges = [NOON, NOON + 10 * 3_600, NOON + 17 * 3_600 + 3_599, NOON + 18 * 3_600];
    assert_eq!(edges.map(|now| holds(night.clone(), now)), [false, true, true, false]);
    let whole = json!({"daily": {"from": "00:00", "to": "24:00"}});
    assert!(holds(whole, NOON + 86_399));
}

#[test]
fn a_percentage_takes_that_share_and_always_the_same_viewers() {
    let engine = |percentage: f64, seed: &str| {
        Engine::new(&[rule("r", json!({"percentage": percentage, "seed": seed, "p2p": false}))], [])
    };
    let taken = |engine: &Engine| -> Vec<bool> {
        let viewers = (0..10_000).map(|viewer| format!("viewer-{viewer}"));
        viewers.map(|viewer| !engine.decide(&Subject { viewer: Some(&viewer), ..subject() }).p2p).collect()
    };
    let (few, many, others) = (taken(&engine(5.0, "s")), taken(&engine(50.0, "s")), taken(&engine(5.0, "t")));
    let count = |taken: &[bool]| taken.iter().filter(|taken| **taken).count();
    assert!((400..600).contains(&count(&few)) && (4_800..5_200).contains(&count(&many)));
    assert!(few.iter().zip(&many).all(|(few, many)| *many || !few), "the few are among the many");
    assert_ne!(few, others);
    assert_eq!(few, taken(&engine(5.0, "s")));
    assert_eq!((count(&taken(&engine(0.0, "s"))), count(&taken(&engine(100.0, "s")))), (0, 10_000));
    // Whoever changes this moves every viewer of every deployment.
    assert_eq!((hundredth("s", "viewer-1"), hundredth("", "")), HUNDREDTHS);
}

/// By `printf 's\0viewer-1' | sha256sum`, and of one zero byte: the first 8 bytes times 10000, divided by 2^64.
const HUNDREDTHS: (u64, u64) = (2424, 4304);

/// The naive evaluator: every rule in turn, compared as the manual says it, with none of the engine's parts.
mod naive {
    use super::*;

    fn glob(pattern: &str, text: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == text,
            Some((head, rest)) => text.strip_prefix(head).is_some_and(|text| {
                (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| glob(rest, &text[at..]))
            }),
        }
    }

    fn pattern_rank(pattern: &str) -> usize {
        if pattern.contains('*') { pattern.replace('*', "").len() + 1 } else { 10_000 }
    }

    /// The ranks from the window down to the app; none when the rule does not hold.
    fn ranks(rule: &Rule, of: &Subject<'_>) -> Option<Vec<usize>> {
        let mut ranks = vec![0; 10];
        if !rule.enabled || rule.tenant != of.tenant {
            return None;
        }
        let window = &rule.window;
        if window.from.is_some() || window.to.is_some() || window.daily.is_some() {
            let now = of.now?;
            let day = now % 86_400;
            let second =
                |text: &str| text[..2].parse::<u64>().unwrap() * 3_600 + text[3..].parse::<u64>().unwrap() * 60;
            let daily = window.daily.as_ref().is_none_or(|daily| {
                let (from, to) = (second(&daily.from), second(&daily.to));
                if from < to { from <= day && day < to } else { day >= from || day < to }
            });
            if window.from.unwrap_or(0) > now || now >= window.to.unwrap_or(u64::MAX) || !daily {
                return None;
            }
            ranks[0] = 1;
        }
        if rule.viewers.min.is_some() || rule.viewers.max.is_some() {
            let (min, max) = (rule.viewers.min.unwrap_or(0), rule.viewers.max.unwrap_or(u64::MAX));
            if !(min..=max).contains(&of.viewers?) {
                return None;
            }
            ranks[1] = 1;
        }
        if let Some(percentage) = rule.percentage {
            let seed = rule.seed.as_deref().unwrap_or(&rule.id);
            if hundredth(seed, of.viewer?) as f64 >= (percentage * 100.0).round() {
                return None;
            }
            ranks[2] = 1;
        }
        if !rule.networks.is_empty() {
            let within = rule.networks.iter().filter(|net| net.contains(&of.address.unwrap()));
            ranks[3] = within.map(|net| usize::from(net.prefix_len()) + 1).max()?;
        }
        if !rule.regions.is_empty() {
            ranks[4] = match &rule.regions {
                regions if of.region.len() > 2 && regions.iter().any(|region| region == of.region) => 2,
                regions if regions.iter().any(|region| region == of.country) => 1,
                _ => return None,
            };
        }
        if rule.sdk.min.is_some() || rule.sdk.below.is_some() {
            let parse = |text: &str| Version::parse(text);
            let sdk = parse(of.sdk?)?;
            if rule.sdk.min.as_deref().is_some_and(|min| sdk < parse(min).unwrap())
                || rule.sdk.below.as_deref().is_some_and(|below| sdk >= parse(below).unwrap())
            {
                return None;
            }
            ranks[5] = rule.sdk.min.iter().count() + rule.sdk.below.iter().count();
        }
        if !rule.platforms.is_empty() {
            if !rule.platforms.iter().any(|platform| Some(platform.as_str()) == of.platform) {
                return None;
            }
            ranks[6] = 1;
        }
        if let Some(assets) = &rule.assets {
            if !glob(assets, of.asset?) {
                return None;
            }
            ranks[7] = pattern_rank(assets);
        }
        if let Some(channels) = &rule.channels {
            if !glob(channels, of.channel) {
                return None;
            }
            ranks[8] = pattern_rank(channels);
        }
        if !rule.apps.is_empty() {
            if !rule.apps.iter().any(|app| app == of.app) {
                return None;
            }
            ranks[9] = 1;
        }
        Some(ranks)
    }

    pub(super) fn decide(rules: &[Rule], of: &Subject<'_>) -> (bool, Option<String>, Option<u32>, Option<u32>) {
        let best = |sets: &dyn Fn(&Rule) -> bool| -> Option<Rule> {
            let mut best: Option<(Vec<usize>, &Rule)> = None;
            for rule in rules.iter().filter(|rule| sets(rule)) {
                let Some(ranks) = ranks(rule, of) else { continue };
                let wins =
                    best.as_ref().is_none_or(|(other, than)| ranks > *other || (ranks == *other && rule.id < than.id));
                if wins {
                    best = Some((ranks, rule));
                }
            }
            best.map(|(_, rule)| rule.clone())
        };
        let p2p = best(&|rule| rule.p2p.is_some());
        (
            p2p.as_ref().is_none_or(|rule| rule.p2p.unwrap()),
            p2p.map(|rule| rule.id),
            best(&|rule| rule.parameters.peers_max.is_some()).and_then(|rule| rule.parameters.peers_max),
            best(&|rule| rule.parameters.stall_ms.is_some()).and_then(|rule| rule.parameters.stall_ms),
        )
    }
}

#[test]
fn random_rules_agree_with_the_naive_evaluator() {
    let mut random = Random::new(5);
    let (mut by_rule, mut off) = (0, 0);
    for round in 0..3_000 {
        let rules: Vec<Rule> = (0..random.below(12)).map(|at| random_rule(&mut random, at)).collect();
        let engine = Engine::new(&rules, []);
        for _ in 0..4 {
            let pick = |random: &mut Random, list: &[&'static str]| list[random.below(list.len() as u64) as usize];
            let region = pick(&mut random, &["", "DE", "DE-BE", "FR-75"]);
            let address = pick(&mut random, &["192.0.2.7", "10.1.2.3", "2001:db8::1"]);
            let subject = Subject {
                tenant: pick(&mut random, &["acme", "other"]),
                app: pick(&mut random, &["player", "tv"]),
                channel: pick(&mut random, &["room1", "room2", "vod"]),
                asset: Some(pick(&mut random, &["", "a/b.m3u8", "a/c.mp4"])).filter(|asset| !asset.is_empty()),
                platform: Some(pick(&mut random, &["html5", "ios", ""])),
                sdk: Some(pick(&mut random, &["1.0", "2.5", "x"])),
                country: &region[..region.len().min(2)],
                region,
                address: Some(address.parse().unwrap()),
                viewer: Some(pick(&mut random, &["v1", "v2", "v3", "v4"])),
                viewers: Some(random.below(20)),
                now: Some(NOON + random.below(86_400)),
            };
            let decision = engine.decide(&subject);
            let (p2p, rule, peers, stall) = naive::decide(&rules, &subject);
            assert_eq!(
                (decision.p2p, decision.rule.as_deref()),
                (p2p, rule.as_deref()),
                "round {round}: {subject:?} {rules:?}"
            );
            let default = Settled::default();
            assert_eq!(decision.parameters.peers_max, peers.unwrap_or(default.peers_max), "round {round}");
            assert_eq!(decision.parameters.stall_ms, stall.unwrap_or(default.stall_ms), "round {round}");
            let explained = engine.explain(&subject);
            assert_eq!((explained.p2p, explained.rule.as_deref()), (p2p, rule.as_deref()));
            let decided = explained.rules.iter().find(|verdict| verdict.decided.iter().any(|what| what == "p2p"));
            assert_eq!(decided.map(|verdict| verdict.rule.clone()), rule);
            for verdict in &explained.rules {
                assert_eq!(verdict.holds, verdict.enabled && verdict.checks.iter().all(|check| check.holds));
            }
            by_rule += usize::from(decision.reason == Reason::Rule);
            off += usize::from(!decision.p2p);
        }
    }
    assert!(by_rule > 1_000 && off > 500, "{by_rule} {off}");
}

fn random_rule(random: &mut Random, at: u64) -> Rule {
    let mut fields = json!({});
    let choices: &[(&str, &[Value])] = &[
        ("apps", &[json!(["player"]), json!(["tv", "x"])]),
        ("channels", &[json!("room*"), json!("room1"), json!("*o*"), json!("vod"), json!("*")]),
        ("assets", &[json!("*.m3u8"), json!("a/*"), json!("a/b.m3u8")]),
        ("platforms", &[json!(["html5"]), json!(["ios", "android"])]),
        ("sdk", &[json!({"min": "2"}), json!({"below": "2"}), json!({"min": "1", "below": "3"})]),
        ("regions", &[json!(["DE"]), json!(["DE-BE", "FR"])]),
        ("networks", &[json!(["192.0.2.0/24"]), json!(["10.0.0.0/8", "10.1.0.0/16"]), json!(["::/0", "0.0.0.0/0"])]),
        ("percentage", &[json!(50), json!(100), json!(12.34)]),
        ("viewers", &[json!({"min": 5}), json!({"max": 10}), json!({"min": 3, "max": 12})]),
        ("window", &[json!({"from": NOON + 100}), json!({"daily": {"from": "20:00", "to": "13:00"}})]),
    ];
    for (name, values) in choices {
        if random.below(4) == 0 {
            fields[name] = values[random.below(values.len() as u64) as usize].clone();
        }
    }
    if random.below(2) == 0 {
        fields["p2p"] = json!(random.below(2) == 0);
    }
    if random.below(2) == 0 {
        fields["parameters"]["peers_max"] = json!(random.below(50));
    }
    if random.below(2) == 0 {
        fields["parameters"]["stall_ms"] = json!(50 + random.below(50));
    }
    fields["enabled"] = json!(random.below(10) > 0);
    // Ids in another order than the list.
    rule(&format!("r{}", at * 7 % 12), fields)
}
