use std::time::{Duration, Instant};

use super::*;

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn an_address_waits_longer_with_each_failure() {
    let start = Instant::now();
    let mut attempts = Attempts::new();
    let from = address("192.0.2.1");
    for _ in 0..FREE_OF_ADDRESS {
        assert_eq!(attempts.begin(from, None, start), Ok(()));
    }
    let mut now = start;
    let mut delays = Vec::new();
    for _ in 0..14 {
        let Err(Wait(wait)) = attempts.begin(from, None, now) else { panic!("it must wait") };
        delays.push(wait.as_secs());
        assert!(attempts.begin(from, None, now + wait - Duration::from_millis(1)).is_err());
        now += wait;
        assert_eq!(attempts.begin(from, None, now), Ok(()));
    }
    assert_eq!(delays[..5], [1, 2, 4, 8, 16]);
    assert_eq!(delays.last(), Some(&MAX_DELAY_OF_ADDRESS.as_secs()));
    assert_eq!(attempts.begin(address("192.0.2.2"), None, now), Ok(()), "another address");
    assert_eq!(attempts.begin(from, None, now + FORGET), Ok(()));
    assert_eq!(attempts.begin(from, None, now + FORGET), Ok(()), "all is forgotten after an hour");
}

#[test]
fn an_account_waits_wherever_attempts_come_from_and_begins_anew_when_its_owner_got_in() {
    let start = Instant::now();
    let mut attempts = Attempts::new();
    for nth in 0..FREE_OF_ACCOUNT {
        assert_eq!(attempts.begin(address(&format!("192.0.2.{nth}")), Some("alice"), start), Ok(()));
    }
    let Err(Wait(wait)) = attempts.begin(address("198.51.100.1"), Some("alice"), start) else { panic!("it must wait") };
    assert_eq!(wait, FIRST_DELAY);
    assert_eq!(attempts.begin(address("198.51.100.1"), Some("bob"), start), Ok(()));
    let mut now = start + wait;
    for _ in 0..20 {
        assert_eq!(attempts.begin(None, Some("alice"), now), Ok(()));
        now += MAX_DELAY_OF_ACCOUNT;
    }
    attempts.got_in(None, Some("alice"));
    for _ in 0..FREE_OF_ACCOUNT {
        assert_eq!(attempts.begin(None, Some("alice"), now), Ok(()));
    }
    assert!(attempts.begin(None, Some("alice"), now).is_err());
}

#[test]
fn who_gets_in_is_not_counted_and_does_not_wash_his_neighbours_clean() {
    let now = Instant::now();
    let mut attempts = Attempts::new();
    let from = address("192.0.2.1");
    for _ in 0..100 {
        assert_eq!(attempts.begin(from, Some("alice"), now), Ok(()));
        attempts.got_in(from, Some("alice"));
    }
    for nth in 0..FREE_OF_ADDRESS {
        assert_eq!(attempts.begin(from, Some(&format!("user{nth}")), now), Ok(()));
    }
    assert!(attempts.begin(from, Some("mallory"), now).is_err(), "an own account does not help to guess others");
}

#[test]
fn a_customer_s_ipv6_network_is_one_address() {
    let now = Instant::now();
    let mut attempts = Attempts::new();
    for nth in 0..FREE_OF_ADDRESS {
        assert_eq!(attempts.begin(address(&format!("2001:db8::{nth:x}")), None, now), Ok(()));
    }
    assert!(attempts.begin(address("2001:db8::ffff:1"), None, now).is_err());
    assert_eq!(attempts.begin(address("2001:db8:0:1::1"), None, now), Ok(()));
    assert_eq!(attempts.begin(address("::ffff:192.0.2.1"), None, now), Ok(()), "IPv4 in IPv6 is IPv4");
}

#[test]
fn the_tables_are_bounded_and_forget_the_longest_unused() {
    let now = Instant::now();
    let mut attempts = Attempts::new();
    let known = address("203.0.113.1");
    for _ in 0..FREE_OF_ADDRESS {
        assert_eq!(attempts.begin(known, None, now), Ok(()));
    }
    let other = |nth: usize| Some(IpAddr::V4((0x0a00_0000 + nth as u32).into()));
    for nth in 0..MAX_ENTRIES - 1 {
        assert_eq!(attempts.begin(other(nth), Some(&nth.to_string()), now), Ok(()));
    }
    assert!(attempts.begin(known, None, now).is_err(), "still known");
    assert_eq!(attempts.begin(other(MAX_ENTRIES), Some("x"), now), Ok(()));
    assert_eq!(attempts.begin(known, None, now), Ok(()), "forgotten");
    for table in [attempts.addresses.entries.len(), attempts.addresses.order.len(), attempts.accounts.order.len()] {
        assert!(table <= MAX_ENTRIES, "{table}");
    }
}

#[test]
fn any_order_of_calls_keeps_the_tables_whole() {
    // A xorshift generator: the same calls in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut now = Instant::now();
    let mut attempts = Attempts::new();
    for _ in 0..20_000 {
        let from = Some(IpAddr::V4((random(40) as u32).into()));
        let name = random(40).to_string();
        now += Duration::from_millis(random(2_000));
        match random(3) {
            0 => attempts.got_in(from, Some(&name)),
            _ => {
                if let Err(Wait(wait)) = attempts.begin(from, Some(&name), now) {
                    assert!(!wait.is_zero() && wait <= MAX_DELAY_OF_ADDRESS);
                }
            }
        }
        let Attempts { addresses, accounts } = &attempts;
        assert_eq!(addresses.entries.len(), addresses.order.len());
        assert_eq!(accounts.entries.len(), accounts.order.len());
        assert!(addresses.order.iter().all(|(used, key)| addresses.entries[key].used == *used));
    }
}
