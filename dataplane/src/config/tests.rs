use std::time::Duration;

use super::*;
use crate::behavior::{Behavior, Hang, Scope};

fn mistake(text: &str) -> String {
    Config::parse(text, "fracas.yml").expect_err(text).to_string()
}

#[test]
fn the_sample_in_the_manual_is_read_as_it_says() {
    let manual = include_str!("../../README.md");
    let sample =
        manual.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a sample");
    let config = Config::parse(sample, "README.md").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.seed, Some(42));
    assert_eq!(config.api, Some("127.0.0.1:7401".parse().unwrap()));
    assert_eq!(config.proxies.iter().map(|proxy| proxy.name.as_str()).collect::<Vec<_>>(), ["cache", "shop"]);
    let cache = &config.proxies[0];
    assert_eq!(cache.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["delay", "error"]);
    let shop = &config.proxies[1];
    assert_eq!(shop.protocol, Protocol::Http);
    assert_eq!(shop.rules[0].name, "slow-checkout");
    assert_eq!(shop.rules[0].share.percent(), 10.0);
    assert_eq!(shop.rules[0].matcher.methods, ["POST"]);
    assert_eq!(shop.rules[1].scope, Some(Scope::Connection));
    assert_eq!(
        (shop.timeline[0].at, shop.timeline[0].lasts),
        (Duration::from_secs(30), Duration::from_secs(10))
    );
    assert_eq!(shop.timeline[0].rules[0].behavior, Behavior::Hang(Hang));
}

#[test]
fn a_time_may_have_several_parts_wherever_one_stands() {
    let config = Config::parse(
        "drain: 1m30s\nproxies:\n  - listen: 127.0.0.1:8000\n    upstream: localhost:80\n    \
         idle_timeout: 1h30m\n    behavior: 20:delay\n    options: {delay: {time: 1s500ms}}\n    \
         timeline: [{behavior: hang, at: 1m 1s, for: 2m30s}]\n",
        "f",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.drain, Duration::from_secs(90));
    let proxy = &config.proxies[0];
    assert_eq!(proxy.patience.idle, Some(Duration::from_secs(5400)));
    let Behavior::Delay(delay) = &proxy.rules[0].behavior else { panic!("{:?}", proxy.rules) };
    assert_eq!(delay.time.to_string(), "1500ms");
    let entry = &proxy.timeline[0];
    assert_eq!((entry.at, entry.lasts), (Duration::from_secs(61), Duration::from_secs(150)));
}

#[test]
fn a_mistake_stays_on_its_line_whatever_the_file_has() {
    let one = |line: &str| {
        format!("proxies:\n  - listen: 127.0.0.1:8000\n    upstream: localhost:80\n    {line}\n")
    };
    for (text, part) in [
        ("\"a\\nb\": 1".to_owned(), r"unknown key `a\nb` in the config"),
        (one(r#""x\ny": 1"#), r"unknown key `x\ny` in a proxy"),
        (one(r#"name: "a\nb""#), r"`name` cannot be `a\nb`"),
        (one(r#"behavior: "20:de\nlay""#), r"de\nlay"),
        (one(r#"options: {"de\nlay": {time: 1s}}"#), "`options`"),
        (one("behavior: hang\n    options: {\"de\\nlay\": {time: 1s}}"), r"de\nlay"),
        (one(r#"rules: [{behavior: "ha\rng"}]"#), r"ha\rng"),
        (
            one(r#"rules: [{behavior: hang, name: "a\nb"}]"#),
            r"`name` cannot be `a\nb`; give a name of 1 to 128",
        ),
        (one(r#"rules: [{behavior: hang, name: "\e[2J"}]"#), r"`name` cannot be `\u{1b}[2J`"),
        (one(r#"rules: [{behavior: hang, group: "a\x9bb"}]"#), r"`group` cannot be `a\u{9b}b`"),
        (one(r#"rules: [{behavior: hang, name: ""}]"#), "`name` cannot be ``"),
        (one(r#"rules: [{behavior: hang, share: "1\n2"}]"#), r"`1\n2` is not a share"),
        (one(r#"upstream: "a\nb""#), ""),
        (one(r#"linger: "1\n2""#), r"`linger` cannot be `1\n2`"),
        ("a: \u{7}".to_owned(), ""),
    ] {
        let error = mistake(&text);
        assert!(!error.contains(char::is_control) && error.contains(part), "{text:?}: {error:?}");
    }
    let long = one(&format!("rules: [{{behavior: hang, name: {}}}]", "x".repeat(129)));
    assert!(mistake(&long).contains("give a name of 1 to 128 bytes"));
    let elsewhere = Config::parse("", "a\nb").unwrap_err().to_string();
    assert!(elsewhere.starts_with(r"a\nb:1:1: the config is empty; its keys are api, "), "{elsewhere}");
    assert!(mistake("5").contains(":1:1: the config takes keys with values; its keys are api, "));
    assert!(mistake("proxies: [5]").contains(": a proxy takes keys with values; its keys are name, "));
}

#[test]
fn a_single_proxy_without_a_name_is_the_default_one() {
    let config = Config::parse("proxies: [{listen: localhost:8000, upstream: localhost:80}]", "f").unwrap();
    let proxy = &config.proxies[0];
    assert_eq!((proxy.name.as_str(), proxy.protocol), ("default", Protocol::Tcp));
    assert_eq!(proxy.listen, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(proxy.connect_timeout, CONNECT_TIMEOUT_DEFAULT);
    assert_eq!(proxy.patience, Patience::default());
    assert!(proxy.rules.is_empty() && config.api.is_none());
}

#[test]
fn every_mistake_names_file_line_column_and_key() {
    let one = |line: &str| {
        format!("proxies:\n  - listen: 127.0.0.1:8000\n    upstream: localhost:80\n    {line}\n")
    };
    let two = |a: &str, b: &str| {
        format!("proxies:\n  - {{listen: 127.0.0.1:1, upstream: a:80, {a}}}\n  - {{listen: 127.0.0.1:{b}}}\n")
    };
    for (text, expected) in [
        (
            "proxeis: []".to_owned(),
            "fracas.yml:1:1: unknown key `proxeis` in the config; did you mean `proxies`?",
        ),
        (
            "api: 127.0.0.1:1".to_owned(),
            "fracas.yml:1:1: `proxies` is missing; for example `proxies: [{listen: 127.0.0.1:8000, upstream: 127.0.0.1:80}]`",
        ),
        ("proxies: []".to_owned(), "fracas.yml:1:10: `proxies` is empty; give at least one proxy"),
        (
            "seed: -1\nproxies: [{listen: 127.0.0.1:1, upstream: a:1}]".to_owned(),
            "fracas.yml:1:7: `seed` cannot be `-1`; give a whole number from 0 to 18446744073709551615",
        ),
        (
            one("behaviour: 20:delay"),
            "fracas.yml:4:5: unknown key `behaviour` in a proxy; did you mean `behavior`?",
        ),
        (one("behavior: 20:dealy"), "fracas.yml:4:15: unknown behavior `dealy`; did you mean `delay`?"),
        (
            one("behavior: 60:error,50:delay"),
            "fracas.yml:4:15: the percentages of the mix `60:error,50:delay` add up to 110; they must stay within 100",
        ),
        (
            one("behavior: 20:delay\n    options: {delay: {tiem: 2s}}"),
            "fracas.yml:5:23: behavior `delay` has no option `tiem`; did you mean `time`?",
        ),
        (
            one("behavior: 20:delay\n    options: {latency: {sleep: fast}}"),
            "fracas.yml:5:32: option `time` of behavior `delay` cannot be `fast`; give a duration up to 24h such as 150ms, or uniform(10ms,50ms), or normal(50ms,10ms)",
        ),
        (
            one("options: {delay: {time: 2s}}"),
            "fracas.yml:4:14: `options` belong to `behavior`, which is missing",
        ),
        (
            one("protocol: redis"),
            "fracas.yml:4:15: protocol `redis` is not built yet; use tcp, which carries any bytes, or http",
        ),
        (
            one("connect_timeout: 5"),
            "fracas.yml:4:22: `connect_timeout` cannot be `5`; give a duration from 1ms to 24h such as 2s",
        ),
        (
            one("keepalive: 200ms"),
            "fracas.yml:4:16: `keepalive` cannot be `200ms`; give a duration from 1s to 9h such as 60s, or 0 for no probes",
        ),
        (
            one("half_close: 0"),
            "fracas.yml:4:17: `half_close` cannot be `0`; give a duration from 1ms to 24h such as 60s",
        ),
        (
            one("linger: soon"),
            "fracas.yml:4:13: `linger` cannot be `soon`; give a duration from 1ms to 24h such as 5s, or 0 for no wait",
        ),
        (
            one("rules: [{behavior: hang, match: {path: /x}}]"),
            "fracas.yml:2:5: rule `hang` matches http requests but the proxy's protocol is tcp; set protocol: http",
        ),
        (
            one("rules: [{behavior: hang, share: 120}]"),
            "fracas.yml:4:37: `share`: `120` is not a share; give 0 to 100, such as 20 or 0.5%",
        ),
        (
            one("rules: [{behavior: hang}, {behavior: hang}]"),
            "fracas.yml:4:31: two rules are called `hang`; give each its own name",
        ),
        (
            one("timeline: [{behavior: hang, at: 3s}]"),
            "fracas.yml:4:16: `for` is missing; for example `for: 10s`",
        ),
        (one("listen: 127.0.0.1:9"), "fracas.yml:4:5: "),
        (
            two("name: a", "2, upstream: b:80, name: a"),
            "fracas.yml:3:5: two proxies are called `a`; give each its own name",
        ),
        (
            two("name: a", "2, upstream: b:80"),
            "fracas.yml:3:5: `name` is missing; with several proxies each needs one",
        ),
        (
            two("name: a", "1, upstream: b:80, name: b"),
            "fracas.yml:3:5: proxies `a` and `b` both listen on 127.0.0.1:1; give each its own address",
        ),
        (
            "proxies: [{listen: 8000, upstream: a:80}]".to_owned(),
            "fracas.yml:1:20: `listen` cannot be `8000`; give an address and a port such as 127.0.0.1:8000, :8000 or [::1]:8000",
        ),
        (
            "proxies: [{listen: 127.0.0.1:1, upstream: a}]".to_owned(),
            "fracas.yml:1:43: `upstream` cannot be `a`; give a host and a port such as localhost:80, :80 or [::1]:80",
        ),
        ("proxies: [{".to_owned(), "fracas.yml:1:"),
        (String::new(), "fracas.yml:"),
    ] {
        let found = mistake(&text);
        assert!(found.starts_with(expected), "\n   found {found}\nexpected {expected}\n{text}");
        assert!(!found.contains('\n') && !found.contains("at line"), "{found}");
    }
}

#[test]
fn the_limits_on_silence_are_read_and_zero_means_none() {
    let text = "proxies: [{listen: 127.0.0.1:1, upstream: a:1, idle_timeout: 10m, linger: 0, half_close: 5m, keepalive: 0}]";
    let patience = Config::parse(text, "f").unwrap().proxies[0].patience;
    let idle = Some(Duration::from_secs(600));
    let half_close = Duration::from_secs(300);
    assert_eq!(patience, Patience { idle, linger: Duration::ZERO, half_close, keepalive: None });
}

mod any {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_never_panics(text in "\\PC{0,200}") {
            let _ = Config::parse(&text, "f");
        }

        #[test]
        fn text_made_of_our_words_never_panics(words in proptest::collection::vec(prop_oneof![
            Just("proxies: "), Just("- "), Just("\n"), Just("  "), Just("listen: 127.0.0.1:1"), Just("upstream: a:1"),
            Just("behavior: "), Just("20:delay"), Just("options: "), Just("{delay: {time: 1s}}"), Just("rules: "),
            Just("["), Just("]"), Just("{"), Just("}"), Just(", "), Just("share: 20"), Just("*a"), Just("&a "), Just("<<: "),
        ], 0..40)) {
            let _ = Config::parse(&words.concat(), "f");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_without_a_place() {
    let error = Config::load(std::path::Path::new("/nowhere/fracas.yml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/fracas.yml: cannot read the file: "), "{error}");
}
