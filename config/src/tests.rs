use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;

/// A node.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Node {
    /// Its name.
    ///
    /// Shown in metrics.
    name: String,
    /// HTTP.
    http: Http,
    /// Logging.
    log: Log,
    /// Share, from 0 to 1.
    share: f64,
    /// Where it is seen from outside.
    public_url: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Http {
    /// Addresses to listen on.
    #[schemars(with = "Vec<String>")]
    listen: Vec<SocketAddr>,
    /// Bytes of a head.
    head_bytes: u16,
    /// Milliseconds.
    head_timeout_ms: u32,
    /// Labels \ "quoted".
    labels: BTreeMap<String, String>,
    /// TLS.
    tls: Tls,
}

/// Certificates.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    /// On or off.
    on: bool,
    #[schemars(extend("writeOnly" = true))]
    secret: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
struct Log {
    /// Form of a line.
    format: LogFormat,
    rules: Vec<Rule>,
    level: Option<Level>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Debug,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Rule {
    Everything,
    OnlyFrom {
        /// Address.
        address: String,
        #[serde(default)]
        count: u8,
    },
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "edge \"1\"\\\n\u{7f}".to_owned(),
            http: Http::default(),
            log: Log { rules: vec![Rule::OnlyFrom { address: "a".to_owned(), count: 3 }], ..Log::default() },
            share: 0.5,
            public_url: None,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: vec!["[::]:8080".parse().unwrap()],
            head_bytes: 16384,
            head_timeout_ms: 10_000,
            labels: [("a b".to_owned(), "c".to_owned())].into(),
            tls: Tls::default(),
        }
    }
}

fn refusal(text: &str) -> String {
    load::<Node>(text, "edge.toml").unwrap_err().to_string()
}

#[test]
fn sample_loads_to_the_default() {
    let text = sample::<Node>();
    assert_eq!(load::<Node>(&text, "sample").unwrap(), Node::default(), "{text}");
}

#[test]
fn sample_has_every_key_below_its_comment_in_order() {
    let text = sample::<Node>();
    let mut at = 0;
    for part in [
        "# A node.\n\n# Its name.\n#\n# Shown in metrics.\nname = \"edge",
        "\n# Share, from 0 to 1.\nshare = 0.5\n",
        "\n# Where it is seen from outside.\n# Not set by default.\n#public_url = …\n",
        "\n# HTTP.\n[http]\n# Addresses to listen on.\nlisten = [\"[::]:8080\"]\n\n# Bytes of a head.\nhead_bytes = 16384\n",
        "labels = { \"a b\" = \"c\" }\n",
        "\n# TLS.\n[http.tls]\n# On or off.\non = false\n",
        "\n# Logging.\n[log]\n# Form of a line.\nformat = \"text\"\n",
        "rules = [{ kind = \"only-from\", address = \"a\", count = 3 }]\n",
    ] {
        let found = text[at..].find(part).unwrap_or_else(|| panic!("{part:?} not after byte {at} of\n{text}"));
        at += found + part.len();
    }
}

#[test]
fn empty_text_is_the_default() {
    assert_eq!(load::<Node>("", "edge.toml").unwrap(), Node::default());
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_eq!(
        refusal("name = 'x'\n[http]\n\nlisen = []\n"),
        "edge.toml:4: unknown key `http.lisen`; did you mean `http.listen`?"
    );
    assert_eq!(refusal("listen = []"), "edge.toml:1: unknown key `listen`; did you mean `http.listen`?");
    assert_eq!(refusal("\n[htp]\nlisten = []"), "edge.toml:2: unknown key `htp`; did you mean `http`?");
    assert_eq!(
        refusal("[log]\nzebra = 1"),
        "edge.toml:2: unknown key `log.zebra`; known here: log.format, log.rules, log.level"
    );
}

#[test]
fn wrong_types_name_key_value_and_expectation() {
    for (text, message) in [
        ("[http]\nlisten = 80", "edge.toml:2: `http.listen` is 80, expected a list, each item a string"),
        ("[http]\nlisten = [\n'[::1]:1',\n80]", "edge.toml:4: `http.listen[1]` is 80, expected a string"),
        (
            "[http]\nhead_bytes = 65536",
            "edge.toml:2: `http.head_bytes` is 65536, expected a whole number from 0 to 65535",
        ),
        (
            "[http]\nhead_bytes = '16k'",
            "edge.toml:2: `http.head_bytes` is the string \"16k\", expected a whole number from 0 to 65535",
        ),
        (
            "[http]\nhead_timeout_ms = -1",
            "edge.toml:2: `http.head_timeout_ms` is -1, expected a whole number from 0 to 4294967295",
        ),
        ("http = 5", "edge.toml:1: `http` is 5, expected a table"),
        ("[http.tls]\non = 'yes'", "edge.toml:2: `http.tls.on` is the string \"yes\", expected true or false"),
        ("[http.tls]\nsecret = 12", "edge.toml:2: `http.tls.secret` is a number, expected a string"),
        (
            "[log]\nformat = 'jsn'",
            "edge.toml:2: `log.format` is \"jsn\", expected one of \"text\", \"json\"; did you mean `json`?",
        ),
        ("[log]\nlevel = 'x'", "edge.toml:2: `log.level` is \"x\", expected one of \"info\", \"debug\""),
        (
            "name = 1979-05-27",
            "edge.toml:1: `name` is 1979-05-27, expected no date: put it in quotes if a string is meant",
        ),
        ("share = nan", "edge.toml:1: `share` is nan, expected a finite number"),
        ("public_url = 1", "edge.toml:1: `public_url` is 1, expected a string"),
        ("[http.labels]\nx = 1", "edge.toml:2: `http.labels.x` is 1, expected a string"),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn tagged_enums_are_told_by_their_tag() {
    for (text, message) in [
        (
            "[[log.rules]]\naddress = 'x'",
            "edge.toml:1: `log.rules[0].kind` is missing: set it to one of \"everything\", \"only-from\"",
        ),
        (
            "[[log.rules]]\nkind = 'only-form'",
            "edge.toml:2: `log.rules[0].kind` is \"only-form\", expected one of \"everything\", \"only-from\"; \
             did you mean `only-from`?",
        ),
        ("[[log.rules]]\nkind = 'only-from'", "edge.toml:1: `log.rules[0].address` is missing: set it to a string"),
        (
            "[[log.rules]]\nkind = 'only-from'\naddres = 'x'",
            "edge.toml:3: unknown key `log.rules[0].addres`; did you mean `log.rules[0].address`?",
        ),
        (
            "[[log.rules]]\nkind = 'only-from'\naddress = 'x'\ncount = 256",
            "edge.toml:4: `log.rules[0].count` is 256, expected a whole number from 0 to 255",
        ),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn values_that_the_type_refuses_name_the_key() {
    assert_eq!(
        refusal("name = 'x'\n[http]\nlisten = ['localhost']"),
        "edge.toml:3: `http.listen[0]`: invalid socket address syntax"
    );
}

#[test]
fn syntax_errors_have_a_line() {
    let message = refusal("name = 'x'\nname = 'y'\n");
    assert!(message.starts_with("edge.toml:2: not valid TOML: duplicate key"), "{message}");
    let message = refusal("[http\n");
    assert!(message.starts_with("edge.toml:1: not valid TOML: "), "{message}");
}

#[test]
fn json_by_the_same_rules() {
    let message = |value: serde_json::Value| from_json::<Node>(&value).unwrap_err().to_string();
    assert_eq!(message(json!({"http": {"lisen": []}})), "unknown key `http.lisen`; did you mean `http.listen`?");
    assert_eq!(message(json!({"http": []})), "`http` is the list [], expected an object");
    assert_eq!(message(json!({"name": null})), "`name` is null, expected a string");
    assert_eq!(message(json!([1])), "found the list [1], expected an object");
    assert_eq!(from_json::<Node>(&json!({"share": 1, "public_url": null})).unwrap().share, 1.0);
    let error = from_json_str::<Node>("{\n\"name\":}").unwrap_err();
    assert_eq!(error.line, Some(2));
    assert!(error.to_string().starts_with("line 2: not valid JSON: "), "{error}");
    let long = "é".repeat(100);
    let message = message(json!({"share": long}));
    assert!(message.contains("é…, expected a number"), "{message}");
}
