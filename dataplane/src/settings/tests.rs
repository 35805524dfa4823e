//! Every limit, every clash, and messages that name key, value and remedy.

use std::path::Path;

use super::*;
use crate::config;
use crate::testing::folder;

fn machine() -> Machine {
    Machine {
        cpus: vec![0, 1, 2, 5],
        memory: 8 << 30,
        host: "Edge_7.Example!".to_owned(),
        state_directory: Some(std::env::temp_dir()),
    }
}

fn problems(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = Config::default();
    change(&mut config);
    config.validate_on(&machine()).err().map_or(Vec::new(), |error| error.problems)
}

/// That exactly one problem is found, which starts with `key = value:` and holds `remedy`.
#[track_caller]
fn refused(key_and_value: &str, remedy: &str, change: impl FnOnce(&mut Config)) {
    let problems = problems(change);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let starts = problems[0].starts_with(&format!("{key_and_value}: "));
    assert!(starts && problems[0].contains(remedy), "{:?} against {key_and_value:?} {remedy:?}", problems[0]);
}

#[test]
fn the_defaults_are_valid_and_complete() {
    let settings = Config::default().validate_on(&machine()).unwrap();
    assert_eq!(settings.node.name, "edge_7.example-");
    assert_eq!(settings.node.state_dir, std::env::temp_dir());
    assert_eq!((&settings.node.public_url, &settings.node.region), (&None, &None));
    assert_eq!(settings.shards.cpus, [0, 1, 2, 5]);
    assert_eq!(settings.http.listen, ["0.0.0.0:8080".parse().unwrap(), "[::]:8080".parse::<SocketAddr>().unwrap()]);
    assert_eq!(settings.ram_bytes_per_shard(), 128 << 20);
    assert_eq!(settings.link.control, [Endpoint::Unix("/run/shoal/control.sock".into())]);
}

#[test]
fn the_sample_file_is_the_default_configuration() {
    let sample = shoal_config::sample::<Config>();
    assert_eq!(shoal_config::load::<Config>(&sample, "sample").unwrap(), Config::default());
    for comment in ["Microseconds", "CIDR", "STATE_DIRECTORY"] {
        assert!(sample.contains(comment), "no {comment} in\n{sample}");
    }
}

#[test]
fn frames_come_by_interfaces_that_are_named() {
    let settings = shoal_config::load::<Config>("[xdp]\nsockets = \"zero-copy\"\n", "edge.toml").unwrap();
    assert_eq!(settings.xdp.sockets, config::XdpSockets::ZeroCopy);
    refused("xdp.sockets = zero-copy", "xdp.interfaces", |config| config.xdp.sockets = settings.xdp.sockets);
    refused("xdp.sockets = copy", "xdp.steer_cpus", |config| {
        config.udp.addresses = vec!["192.0.2.1".to_owned()];
        config.xdp.interfaces = vec!["eth0".to_owned()];
        config.xdp.steer_cpus = true;
        config.xdp.sockets = config::XdpSockets::Copy;
    });
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let error = shoal_config::load::<Config>("[http]\nlisen = []\n", "edge.toml").unwrap_err().to_string();
    assert!(error.contains("edge.toml:2") && error.contains("http.lisen") && error.contains("listen"), "{error}");
}

#[test]
fn a_region_is_short_text() {
    let mut config = Config::default();
    config.node.region = " DE-BE ".to_owned();
    assert_eq!(config.validate_on(&machine()).unwrap().node.region.as_deref(), Some("DE-BE"));
    refused("node.region = \"a\\nb\"", "DE-BE", |config| config.node.region = "a\nb".to_owned());
    let long = "x".repeat(65);
    refused(&format!("node.region = {long:?}"), "64 bytes", |config| config.node.region = long.clone());
}

#[test]
fn shards_take_cpus_in_turn() {
    let mut config = Config::default();
    config.shards.count = 4;
    config.shards.cpus = vec![5, 1];
    assert_eq!(config.validate_on(&machine()).unwrap().shards.cpus, [5, 1, 5, 1]);
    refused("shards.cpus = 3", "CPUs 0-2,5", |config| config.shards.cpus = vec![3]);
    refused("shards.count = 257", "from 1 to 256", |config| {
        config.shards.count = 257;
        config.cache.ram_bytes = 8 << 30;
    });
    refused("shards.reactor_us = 1", "microseconds", |config| config.shards.reactor_us = 1);
}

#[test]
fn limits_that_depend_on_each_other_are_checked_together() {
    refused("cache.block_bytes = 100000", "power of two", |config| config.cache.block_bytes = 100_000);
    refused("cache.block_bytes = 8388608", "2 MiB", |config| config.cache.block_bytes = 8 << 20);
    refused("cache.ram_bytes = 67108863", "67108864", |config| config.cache.ram_bytes = (64 << 20) - 1);
    assert_eq!(problems(|config| config.cache.ram_bytes = 64 << 20), [""; 0]);
    refused("cache.ram_bytes = 8589934593", "has 8589934592", |config| config.cache.ram_bytes = (8 << 30) + 1);
    refused("http.sendfile_min_bytes = 65535", "from 65536", |config| config.http.sendfile_min_bytes = 65_535);
    refused("cache.front_percent = 51", "from 0 to 50", |config| config.cache.front_percent = 51);
    let path = |path: &str, bytes| crate::config::DiskPath { path: path.to_owned(), bytes };
    refused("disk.paths = \"cache\"", "absolute", |config| config.disk.paths = vec![path("cache", 1 << 40)]);
    refused("disk.paths = \"/a\" with bytes = 1000", "raise it", |config| config.disk.paths = vec![path("/a", 1000)]);
    refused("disk.paths = \"/a\"", "twice", |config| {
        config.disk.paths = vec![path("/a", 1 << 40), path("/a", 1 << 40)]
    });
    assert_eq!(problems(|config| config.disk.paths = vec![path("/a", 1 << 40), path("/b", 1 << 40)]), [""; 0]);
    refused("disk.admit_uses = 0", "from 1 to 3", |config| config.disk.admit_uses = 0);
    refused("disk.write_bytes_per_s = 5", "from 1048576", |config| config.disk.write_bytes_per_s = 5);
    refused("disk.read_timeout_ms = 0", "from 1", |config| config.disk.read_timeout_ms = 0);
    refused("http.request_line_bytes = 16385", "http.head_bytes (16384)", |config| {
        config.http.request_line_bytes = 16_385;
    });
}

#[test]
fn addresses_must_be_addresses_and_not_clash() {
    let listen = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        move |config: &mut Config| config.http.listen = list
    };
    refused("http.listen = \"localhost:80\"", "address:port", listen(&["localhost:80"]));
    refused("http.listen = []", "at least one", listen(&[]));
    refused("http.listen = 127.0.0.1:80", "0.0.0.0:80", listen(&["0.0.0.0:80", "127.0.0.1:80"]));
    assert_eq!(problems(listen(&["0.0.0.0:80", "[::]:80", "127.0.0.1:81", "127.0.0.1:0", "127.0.0.1:0"])), [""; 0]);
    refused("admin.listen = 127.0.0.1:8080", "http.listen", |config| config.admin.listen = "127.0.0.1:8080".into());
    refused("admin.listen = \"x\"", "address:port", |config| config.admin.listen = "x".into());
}

#[test]
fn udp_needs_addresses_of_this_machine_and_two_ports() {
    let at = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        move |config: &mut Config| config.udp.addresses = list
    };
    refused("udp.addresses = \"192.0.2.1:3478\"", "without a port", at(&["192.0.2.1:3478"]));
    refused("udp.addresses = 0.0.0.0", "name each", at(&["0.0.0.0"]));
    refused("udp.addresses = ::", "name each", at(&["192.0.2.1", "::"]));
    refused("udp.addresses = 224.0.0.1", "one machine", at(&["224.0.0.1"]));
    refused("udp.addresses = 192.0.2.1", "twice", at(&["192.0.2.1", "192.0.2.1"]));
    assert_eq!(problems(at(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])), [""; 0]);
    let with = |change: fn(&mut config::Udp)| {
        move |config: &mut Config| {
            config.udp.addresses = vec!["192.0.2.1".to_owned()];
            change(&mut config.udp);
        }
    };
    refused("udp.port = 0", "3478", with(|udp| udp.port = 0));
    refused("udp.alternate_port = 3478", "differ", with(|udp| udp.alternate_port = 3478));
    refused("udp.receive_buffers = 100", "power of two", with(|udp| udp.receive_buffers = 100));
    refused("udp.socket_bytes = 1", "bytes", with(|udp| udp.socket_bytes = 1));
    assert_eq!(problems(with(|udp| udp.alternate_port = 0)), [""; 0]);
}

#[test]
fn packets_are_sent_to_cpus_of_shards_that_get_them() {
    let cpus = |steer: bool| move |config: &mut Config| (config.udp.steer, config.xdp.steer_cpus) = (steer, true);
    refused("xdp.steer_cpus = true", "udp.steer", cpus(false));
    assert_eq!(problems(cpus(true)), [""; 0]);
}

#[test]
fn the_relay_is_served_by_tcp_on_ports_that_nobody_else_has() {
    let with = |change: fn(&mut Config)| {
        move |config: &mut Config| {
            config.udp.addresses = vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
            config.turn.relay_addresses = vec!["192.0.2.1".to_owned()];
            change(config);
        }
    };
    let streams = |change: fn(&mut Config)| {
        let mut config = Config::default();
        with(change)(&mut config);
        let settings = config.validate_on(&machine()).unwrap();
        settings.turn_streams().map(|address| address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(streams(|_| ()), ["192.0.2.1:3478", "[2001:db8::1]:3478"]);
    assert_eq!(
        streams(|config| config.turn.tcp_ports = vec![443]),
        ["192.0.2.1:3478", "192.0.2.1:443", "[2001:db8::1]:3478", "[2001:db8::1]:443"]
    );
    assert_eq!(streams(|config| config.turn.tcp = false), [""; 0]);
    assert_eq!(streams(|config| config.turn.relay_addresses.clear()), [""; 0], "nothing is relayed");
    refused(
        "turn.tcp_ports = 443",
        "set turn.tcp",
        with(|config| {
            config.turn.tcp = false;
            config.turn.tcp_ports = vec![443];
        }),
    );
    refused("turn.tcp_ports = 0", "5349", with(|config| config.turn.tcp_ports = vec![0]));
    refused("turn.tcp_ports = 3478", "twice", with(|config| config.turn.tcp_ports = vec![3478]));
    refused("turn.tcp_ports = 8", "at most 7", with(|config| config.turn.tcp_ports = (1..9).collect()));
    refused(
        "turn.tcp_ports = 192.0.2.1:8080",
        "0.0.0.0:8080 in http.listen",
        with(|config| {
            config.http.listen = vec!["0.0.0.0:8080".to_owned()];
            config.turn.tcp_ports = vec![8080];
        }),
    );
    refused(
        "turn.tcp = [2001:db8::1]:3478",
        "tls.listen",
        with(|config| {
            config.tls.listen = vec!["[2001:db8::1]:3478".to_owned()];
            config.tls.certificates = vec![config::CertificateFiles { certificate: "a".into(), key: "b".into() }];
        }),
    );
    refused(
        "turn.tcp_ports = 192.0.2.1:9090",
        "admin.listen",
        with(|config| {
            config.admin.listen = "192.0.2.1:9090".into();
            config.turn.tcp_ports = vec![9090];
        }),
    );
    refused("turn.connections = 0", "connections", with(|config| config.turn.connections = 0));
}

#[test]
fn networks_are_parsed_and_single_addresses_taken() {
    let mut config = Config::default();
    config.http.trusted_proxies = vec!["10.0.0.0/8".into(), "::1".into()];
    let settings = config.validate_on(&machine()).unwrap();
    let expected = ["10.0.0.0/8", "::1/128"].map(|text| text.parse::<IpNet>().unwrap());
    assert_eq!(settings.http.trusted_proxies, expected);
    refused("http.trusted_proxies = \"10.0.0.0/33\"", "10.0.0.0/8", |config| {
        config.http.trusted_proxies = vec!["10.0.0.0/33".into()];
    });
}

#[test]
fn parents_are_hosts_and_children_networks() {
    let parents = |list: &[(&str, u16)]| {
        let parent = |&(address, weight): &(&str, u16)| crate::config::Parent { address: address.to_owned(), weight };
        let list: Vec<_> = list.iter().map(parent).collect();
        move |config: &mut Config| config.upstream.parents = list
    };
    let mut config = Config::default();
    parents(&[("P1.test", 1), ("[::1]:8080", 3)])(&mut config);
    config.http.children = vec!["192.0.2.7".into()];
    let settings = config.validate_on(&machine()).unwrap();
    let places: Vec<_> = settings.upstream.parents.iter().map(|parent| (&*parent.host, parent.port)).collect();
    assert_eq!(places, [("p1.test", 80), ("::1", 8080)]);
    assert_eq!(settings.http.children, ["192.0.2.7/32".parse::<IpNet>().unwrap()]);
    refused(
        "upstream.parents[1].address = \"http://p2/\"",
        "a port if it is not 80",
        parents(&[("a", 1), ("http://p2/", 1)]),
    );
    refused("upstream.parents[0].weight = 0", "leave the parent out", parents(&[("a", 0)]));
    refused("upstream.parents[1].address = \"a\"", "twice", parents(&[("a", 1), ("a", 1)]));
    refused("upstream.parents = 65", "at most 64", parents(&[("a", 1); 65]));
    refused("http.children = \"10.0.0.0/33\"", "10.0.0.0/8", |config| {
        config.http.children = vec!["10.0.0.0/33".into()]
    });
}

#[test]
fn the_state_folder_must_be_one_that_this_user_can_fill() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.display().to_string();
    refused("node.state_dir = \"state\"", "absolute", |config| config.node.state_dir = "state".into());
    refused(&format!("node.state_dir = {file:?}"), "not a folder", |config| config.node.state_dir = file.clone());
    let below = format!("{file}/below");
    refused(&format!("node.state_dir = {below:?}"), "install -d", |config| config.node.state_dir = below.clone());
    let new = folder.path().join("a/b");
    assert_eq!(problems(|config| config.node.state_dir = new.display().to_string()), [""; 0]);
    assert!(!new.exists(), "checking changes nothing");
}

#[test]
fn a_state_folder_without_permission_is_refused() {
    let folder = folder();
    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    std::fs::set_permissions(folder.path(), read_only).unwrap();
    // Root may write anywhere but where the kernel itself says no.
    let parent = if rustix::process::geteuid().is_root() { Path::new("/proc/sys/kernel") } else { folder.path() };
    let below = parent.join("state").display().to_string();
    refused(&format!("node.state_dir = {below:?}"), "cannot write", |config| config.node.state_dir = below.clone());
}

#[test]
fn names_urls_endpoints_and_levels_are_checked() {
    refused("node.name = \"Edge 1\"", "a-z 0-9", |config| config.node.name = "Edge 1".into());
    refused("node.public_url = \"edge1:8080\"", "http://", |config| config.node.public_url = "edge1:8080".into());
    refused("link.control = \"tcp:1.2.3.4:5\"", "unix:", |config| config.link.control = vec!["tcp:1.2.3.4:5".into()]);
    refused("link.control = \"unix:relative\"", "absolute", |config| {
        config.link.control = vec!["unix:relative".into()]
    });
    refused("link.retry_ms = 0", "milliseconds", |config| config.link.retry_ms = 0);
    refused("log.level = \"info,=x=\"", "trace", |config| config.log.level = "info,=x=".into());
    refused("log.access_log = \"/no/such/folder/log\"", "folder that exists", |config| {
        config.log.access_log = "/no/such/folder/log".into();
    });
    let mut config = Config::default();
    config.node.public_url = "https://edge1.example.com/".into();
    config.http.connections_per_address = 0;
    let settings = config.validate_on(&machine()).unwrap();
    assert_eq!(settings.node.public_url.as_deref(), Some("https://edge1.example.com"));
    assert_eq!(settings.http.connections_per_address, usize::MAX);
}

#[test]
fn xdp_takes_interfaces_a_place_and_consequences() {
    let with = |change: fn(&mut config::Xdp)| {
        move |config: &mut Config| {
            config.udp.addresses = vec!["192.0.2.1".into()];
            change(&mut config.xdp);
        }
    };
    for name in ["", "a/b", "a b", "a-name-too-long0"] {
        refused(&format!("xdp.interfaces = {name:?}"), "ip link", |config| {
            config.udp.addresses = vec!["192.0.2.1".into()];
            config.xdp.interfaces = vec![name.into()];
        });
    }
    let twice = with(|xdp| xdp.interfaces = vec!["eth0".into(), "eth1".into(), "eth0".into()]);
    refused("xdp.interfaces = \"eth0\"", "twice", twice);
    refused("xdp.interfaces = eth0", "udp.addresses", |config| config.xdp.interfaces = vec!["eth0".into()]);
    refused("xdp.packets_per_new_address = 0", "attack_packets", with(|xdp| xdp.packets_per_new_address = 0));
    for pins in ["bpf", "/", "/sys/fs/bpf/../.."] {
        refused(&format!("xdp.pins = {pins:?}"), "/sys/fs/bpf/shoal", |config| config.xdp.pins = pins.into());
    }
    let nowhere = with(|xdp| {
        xdp.keep = true;
        xdp.pins = String::new();
    });
    refused("xdp.keep = true", "xdp.pins", nowhere);
    let mut config = Config::default();
    with(|xdp| {
        xdp.interfaces = vec!["eth0.100".into(), "eth0".into()];
        xdp.attack_packets = 0;
        xdp.packets_per_new_address = 0;
    })(&mut config);
    let settings = config.validate_on(&machine()).unwrap();
    assert_eq!(settings.xdp.pins.as_deref(), Some(Path::new("/sys/fs/bpf/shoal")));
    assert_eq!((settings.xdp.limits.sample_every, settings.xdp.keep), (64, false));
}

#[test]
fn all_problems_are_told_at_once() {
    let found = problems(|config| {
        config.http.headers = 0;
        config.upstream.connect_timeout_ms = 0;
        config.admin.listen = "x".into();
    });
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn this_machine_has_cpus_memory_and_a_name() {
    let machine = Machine::this();
    assert!(!machine.cpus.is_empty() && machine.memory > 1 << 20 && !machine.host.is_empty(), "{machine:?}");
}
