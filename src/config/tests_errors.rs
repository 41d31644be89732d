//! What is refused, and in which words.

use std::path::Path;

use super::tests::{toml, with_env};
use super::*;

/// The errors of a text that has the upstream in its first two lines.
fn errors(rest: &str) -> String {
    toml(rest).unwrap_err().to_string()
}

fn yaml_errors(text: &str) -> String {
    Config::parse("a.yaml", text, Format::Yaml).unwrap_err().to_string()
}

#[test]
fn all_errors_are_told_at_once_in_their_order_with_what_to_write_instead() {
    let text = "[listen]\nproxi = \"x\"\nworkers = 4.7\n\n[store]\nmemory = 256\n\n[[route]]\nname = \"user\"\nmatch = \"/users/{id}\"\n\
                key = \"user:{ident}\"\nttl = \"60\"\norigin = \"overide\"\n";
    let told = Config::parse("a.toml", text, Format::Toml).unwrap_err().to_string();
    let wanted = r#"a.toml: upstream.url is missing: where is the API?
  = write url = "http://127.0.0.1:9000" under [upstream], set ASIDECAR_UPSTREAM__URL, or give --upstream URL

a.toml:2:1: unknown key `proxi` in [listen]
  2 | proxi = "x"
    | ^^^^^
  = did you mean `proxy`?

a.toml:3:11: a whole number is expected, and this is the number 4.7
  3 | workers = 4.7
    |           ^^^

a.toml:6:10: a size in quotes is expected, and this is the number 256
  6 | memory = 256
    |          ^^^
  = write "256MiB"

a.toml:11:13: unknown parameter `{ident}`
  11 | key = "user:{ident}"
     |             ^^^^^^^
  = the route's `match` has {id}

a.toml:12:7: `60` lacks a unit; write "60s" for seconds
  12 | ttl = "60"
     |       ^^^^
  = a duration is whole numbers with the units d, h, m, s and ms, the larger first: "250ms", "60s", "1m30s", "2h", "1d"

a.toml:13:10: unknown value `overide`
  13 | origin = "overide"
     |          ^^^^^^^^^
  = did you mean "override"? it can be "respect", "override", "cap""#;
    assert_eq!(told, wanted);
}

#[test]
fn yaml_errors_have_line_and_column_too() {
    let told =
        yaml_errors("upstream:\n  url: http://ü\nlisten: {proxi: 1}\nroute:\n  - name: é\n    tags: ['ü', \"a{b}\"]\n");
    for wanted in [
        "a.yaml:2:8: `ü` is no host, with or without a port\n  2 |   url: http://ü\n    |        ^^^^^^^^",
        "a.yaml:3:10: unknown key `proxi` in [listen]\n  3 | listen: {proxi: 1}\n    |          ^^^^^\n  = did you mean `proxy`?",
        "a.yaml:5:11: `é` is no name for a route",
        "a.yaml:6:13: the character 'ü' can't be here",
        "a.yaml:6:19: unknown parameter `{b}`",
    ] {
        assert!(told.contains(wanted), "{wanted}\n--- is not in\n{told}");
    }
}

#[test]
fn malformed_files_are_refused_where_they_are_malformed() {
    assert!(errors("a = 1\na = 2\n").contains("a.toml:4:1: this is no TOML: duplicate key\n  4 | a = 2\n    | ^"));
    assert!(
        errors("[store]\nmemory = \n").contains("a.toml:4:10: this is no TOML"),
        "{}",
        errors("[store]\nmemory = \n")
    );
    assert!(yaml_errors("a: 1\na: 2\n").contains("a.yaml:2:1: this is no YAML: duplicated key"));
    assert!(yaml_errors("a:\n  404: 1\n  '404': 2\n").contains("a.yaml:3:3: the key `404` is there twice"));
    assert!(yaml_errors("a: [1\nb: 2").contains("a.yaml:2:2: this is no YAML"));
    assert!(yaml_errors("a: 1\n---\nb: 1\n").contains("there can be one document only"));
    assert!(yaml_errors("- 1\n").contains("a.yaml:1:1: `the configuration` is a table, and this is a list"));
}

#[test]
fn errors_in_the_environment_name_the_variable() {
    let told = with_env(&[
        ("ASIDECAR_LISTEN__WORKERS", "4.7"),
        ("ASIDECAR_LISTEN_PROXY", "0.0.0.0:80"),
        ("ASIDECAR_ROUTE__0__TTL", "1s"),
        ("ASIDECAR_STORE__MEMORY", ""),
        ("ASIDECAR_STORE__REDIS", "http://secret@redis"),
        ("ASIDECAR_WHATEVER", "1"),
        ("ASIDECAR_LOG__ACCESS", "yes"),
    ])
    .unwrap_err()
    .to_string();
    for wanted in [
        "ASIDECAR_LISTEN__WORKERS: a whole number is expected, and this is `4.7`",
        "ASIDECAR_LISTEN_PROXY: this variable names no key of the configuration\n  = did you mean ASIDECAR_LISTEN__PROXY?",
        "ASIDECAR_ROUTE__0__TTL: this variable names no key of the configuration\n  = routes can be given in a file only",
        "ASIDECAR_STORE__MEMORY: this is empty, and a size in quotes is expected",
        "ASIDECAR_STORE__REDIS: `http` is no scheme of Redis",
        "ASIDECAR_WHATEVER: this variable names no key of the configuration\n  = a variable is named",
        "ASIDECAR_LOG__ACCESS: true or false is expected, and this is `yes`",
    ] {
        assert!(told.contains(wanted), "{wanted}\n--- is not in\n{told}");
    }
    assert!(!told.contains("secret"), "{told}");
}

#[test]
fn the_command_line_wins_and_is_named_in_its_errors() {
    let env = || [("ASIDECAR_UPSTREAM__URL".to_owned(), "http://b".to_owned())].into_iter();
    let load = |url: &str| Config::load(None, env(), &Overrides { upstream: Some(url.to_owned()) });
    let url = load("https://a:8443/base/").unwrap().upstream.url;
    assert_eq!((url.to_string().as_str(), url.https, url.port()), ("https://a:8443/base", true, 8443));
    assert!(
        load("a:80").unwrap_err().to_string().starts_with("--upstream: `a:80` is no URL; does it lack \"http://\"?")
    );
    let told = Config::load(None, std::iter::empty(), &Overrides::default()).unwrap_err().to_string();
    assert!(told.starts_with("configuration: upstream.url is missing"), "{told}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_of_its_own() {
    let missing = Config::load(Some(Path::new("/nowhere/a.toml")), std::iter::empty(), &Overrides::default());
    let told = missing.unwrap_err().to_string();
    assert!(told.starts_with("/nowhere/a.toml: cannot be read: "), "{told}");
    assert!(told.ends_with("; give the path of a readable file with --config"), "{told}");
}

#[test]
fn secrets_are_neither_in_errors_nor_in_debug_output() {
    let told = errors("[admin]\ntoken = \"short-secret\"\n[store]\nredis = \"redis://u:secret@\"\n");
    assert!(told.contains("a.toml:4:9: the token is shorter than 16 characters"), "{told}");
    assert!(told.contains("a.toml:6:9: the URL of Redis has no host"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    let told = errors("[admin]\ntoken = \"secret\n") + &errors("[admin]\nx = 1\n\"tokn\" = 1\nx = {token: 'secret'}\n");
    assert!(told.contains("this is no TOML") && !told.contains("secret"), "{told}");
    let sound = toml("[admin]\ntoken = \"a-long-enough-secret\"\n[store]\nredis = \"redis://u:secret@h\"\n").unwrap();
    assert!(!format!("{sound:?}").contains("secret"));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let route = |rest: &str| format!("[[route]]\nname = \"r\"\n{rest}\n");
    for (text, wanted) in [
        ("[store]\nmemory = \"0\"".to_owned(), "a.toml:4:10: without memory and without Redis"),
        ("[listen]\nproxy = \"127.0.0.1:9901\"".to_owned(), "a.toml:4:9: `proxy` and `admin` are both 127.0.0.1:9901"),
        ("[listen]\nmax_header = \"8KiB\"\nmax_uri = \"9KiB\"".to_owned(), "a.toml:5:11: `max_uri` is larger"),
        (
            "[invalidation]\nmax_lag = \"1s\"".to_owned(),
            "a.toml:4:11: `heartbeat`, 1s, must be shorter than `max_lag`, 1s",
        ),
        (route("origin = \"cap\""), "a.toml:5:10: `origin = \"cap\"` has no `ttl` to go by"),
        (
            route("methods = [\"GET\"]\ninvalidates = [\"x\"]"),
            "a.toml:6:15: nothing here invalidates: the route is for GET alone",
        ),
        (route("cache = false\nttl = \"1s\""), "a.toml:6:7: `ttl` has no meaning where `cache` is false"),
        (route("cache = false\nstale_if_error = \"1s\""), "a.toml:6:18: `stale_if_error` has no meaning"),
        (
            route("max_object = \"1GiB\""),
            "a.toml:5:14: `max_object`, 1GiB, is larger than the memory for all entries, 256MiB",
        ),
        (route("methods = [\"HEAD\"]"), "a.toml:5:11: HEAD goes with GET"),
        (route("match = \"/x\"\n[[route]]\nname = \"r\""), "a.toml:7:8: the name `r` is taken by another route"),
        ("[[route]]\nname = \"default\"\nmatch = \"/x\"".to_owned(), "a.toml:4:8: the name `default` is for"),
        (
            route("match = \"/a/{x}\"\n[[route]]\nname = \"s\"\nmatch = \"/a/{y}\""),
            "a.toml:8:9: the routes `r` and `s` both match every method of `/a/{y}`, and neither is more specific",
        ),
        (
            route("match = \"/a/{x}\"\nkey = \"k:{x}\"\n[[route]]\nname = \"s\"\nmatch = \"/b/{y}\"\nkey = \"k:{y}\""),
            "a.toml:10:7: the routes `r` and `s` have the same key, `k:{y}`",
        ),
    ] {
        let told = errors(&text);
        assert!(told.starts_with(wanted), "{wanted}\n--- does not begin\n{told}");
        assert_eq!(toml(&text).unwrap_err().errors().len(), 1, "{told}");
    }
    assert!(
        errors(&route("match = \"/a\"\nkey = \"k\"\n[[route]]\nname = \"s\"\nmatch = \"/b\"\nkey = \"k\""))
            .contains("the first is at a.toml:6:7")
    );
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_the_right_form() {
    for (text, wanted) in [
        ("[listen]\nproxy = 8080", "a.toml:4:9: a string is expected, and this is the number 8080"),
        (
            "[listen]\nproxy = \"8080\"",
            "`8080` is no address to listen on\n  4 | proxy = \"8080\"\n    |         ^^^^^^\n  = an address is",
        ),
        ("[listen]\nworkers = \"4\"", "= write 4, without quotes"),
        ("[listen]\nmax_header = \"1KiB\"", "this must be at least \"8KiB\" and at most \"16MiB\""),
        ("[listen]\nheader_timeout = \"0s\"", "this must be longer than nothing"),
        ("[listen]\nheader_timeout = 10", "= write \"10s\" for seconds"),
        ("[log]\naccess = \"true\"", "= write true or false, without quotes"),
        ("[log]\nlevel = \"verbose\"", "it can be \"error\", \"warn\", \"info\", \"debug\", \"trace\""),
        ("[store]\nnamespace = \"a:b\"", "`a:b` is no namespace"),
        ("[store]\nredis = \"redis://h/x\"", "`x` is no database"),
        ("[store]\nredis = \"redis://h:99999\"", "`99999` is no port"),
        ("[store]\nttl = \"1s\"", "= `ttl` belongs in [[route]]"),
        ("listen = 1", "a.toml:3:1: unknown key `listen` in [upstream]"),
        ("[route]\nname = \"x\"", "= write [[route]], with two brackets"),
        ("[[routes]]\nname = \"x\"", "= did you mean `route`?"),
        ("[[route]]\nmatch = \"/x\"", "a.toml:3:1: the route has no name"),
        ("[[route]]\nname = \"x\"\nmatch = \"/x?y\"", "a.toml:5:12: the character '?' can't be here"),
        ("[[route]]\nname = \"x\"\nvary = \"accept\"", "= write [\"accept\"]"),
        ("[[route]]\nname = \"x\"\nvary = [\"Cookie\"]", "= write cookies = { key = [\"tenant\"] }"),
        (
            "[[route]]\nname = \"x\"\nquery = { only = [\"a\"], except = [\"b\"] }",
            "`only` and `except` exclude each other",
        ),
        ("[[route]]\nname = \"x\"\nquery = { onyl = [\"a\"] }", "unknown key `onyl` in `query`"),
        ("[[route]]\nname = \"x\"\ncookies = { key = [] }", "`cookies` names no cookie"),
        ("[[route]]\nname = \"x\"\nttl_jitter = 1.5", "this must be at least 0 and at most 1"),
        ("[[route]]\nname = \"x\"\nttl_by_status = { 999 = \"1s\" }", "a.toml:5:19: `999` is no status of a response"),
        ("[[route]]\nname = \"x\"\nmethods = [\"get\"]", "= did you mean \"GET\"?"),
        ("[[route]]\nname = \"x\"\nttl = 2020-01-01", "and this is a date or time"),
    ] {
        let told = errors(text);
        assert!(told.contains(wanted), "{wanted}\n--- is not in\n{told}");
    }
}

#[test]
fn upstream_urls_are_checked() {
    let url = |text: &str| Config::parse("a.toml", &format!("upstream.url = {text:?}"), Format::Toml);
    for (text, wanted) in [
        ("ftp://a", "`ftp` is no scheme"),
        ("http://", "no host"),
        ("http://a?x", "no query"),
        ("http://a/#x", "no query and no fragment"),
        ("http://u:p@a", "no user or password"),
        ("http://a:0", "`0` is no port"),
        ("http://a:99999", "`99999` is no port"),
        ("http://a/x y", "' ' can't be in a path"),
        ("http://a/../b", "\"..\""),
    ] {
        let told = url(text).unwrap_err().to_string();
        assert!(told.contains(wanted), "{text}: {told}");
    }
    assert_eq!(url("HTTPS://[::1]:9/a/b/").unwrap().upstream.url.to_string(), "https://[::1]:9/a/b");
    assert_eq!(url("http://localhost").unwrap().upstream.url.port(), 80);
}

#[test]
fn a_lifetime_that_would_be_cut_at_run_time_is_refused() {
    const WANTED: &str = "entries live at most 7 days, since invalidations are remembered for as long";
    for key in ["ttl", "stale_while_revalidate", "stale_if_error"] {
        let told = errors(&format!("[[route]]\nname = \"x\"\n{key} = \"7d1ms\""));
        assert!(told.contains(WANTED) && told.ends_with("\n  = write \"7d\""), "{key}: {told}");
        assert!(toml(&format!("[[route]]\nname = \"x\"\n{key} = \"7d\"")).is_ok(), "{key}");
    }
    let told = errors("[[route]]\nname = \"x\"\nttl_by_status = { 404 = \"8d\", 5xx = \"1s\" }");
    assert!(told.starts_with(&format!("a.toml:5:25: {WANTED}")), "{told}");
}

#[test]
fn a_size_without_a_unit_is_never_suggested_as_so_many_bytes() {
    for (text, wanted) in [
        ("[store]\nmemory = 256", "= write \"256MiB\""),
        ("[store]\nmemory = 0", "= write \"0\""),
        ("[store]\nmemory = 268435456", "= write \"256MiB\""),
        ("[listen]\nmax_header = 16", "= write \"16MiB\" or \"16KiB\""),
        ("[listen]\nmax_header = 16384", "= write \"16KiB\""),
        ("[listen]\nmax_uri = 10", "= write \"10KiB\""),
        ("[listen]\nmax_uri = 300000000", "= a size is"),
        ("[[route]]\nname = \"x\"\nmax_object = 500", "= write \"500MiB\" or \"500KiB\"; \"500\" would be bytes"),
        ("[[route]]\nname = \"x\"\nmax_object = -1", "= a size is"),
    ] {
        let told = errors(text);
        assert!(told.contains(&format!("\n  {wanted}")), "{wanted}\n--- is not in\n{told}");
    }
}

#[test]
fn a_memory_that_can_hold_nothing_is_refused() {
    for (text, help) in [("256", "write \"256MiB\""), ("1", "write \"1MiB\""), ("1023KiB", "write \"1MiB\" or more")] {
        let told = errors(&format!("[store]\nmemory = \"{text}\""));
        assert!(told.starts_with("a.toml:4:10: this is too small to hold anything; \"0\" turns memory off"), "{told}");
        assert!(told.ends_with(&format!("\n  = {help}")), "{told}");
    }
    assert!(toml("[store]\nmemory = \"0\"\nredis = \"redis://r\"").is_ok());
    let told = with_env(&[("ASIDECAR_STORE__MEMORY", "256")]).unwrap_err().to_string();
    assert!(told.starts_with("ASIDECAR_STORE__MEMORY: this is too small"), "{told}");
}

#[test]
fn a_wrong_kind_is_told_with_what_to_write_instead() {
    let route = |rest: &str| format!("[[route]]\nname = \"x\"\n{rest}");
    for (text, wanted) in [
        ("[store]\nredis = true".to_owned(), "write \"redis://127.0.0.1:6379/0\""),
        ("[listen]\nproxy = 8080".to_owned(), "write \"127.0.0.1:8080\""),
        ("[listen]\nadmin = true".to_owned(), "an address is an IP address and a port"),
        ("[store]\nnamespace = 7".to_owned(), "write \"7\""),
        (route("ttl_jitter = 10"), "write a number from 0 to 1, such as 0.1"),
        (route("ttl_jitter = \"10%\""), "write a number from 0 to 1, such as 0.1"),
        (route("ttl = 1.5"), "write \"1500ms\""),
        (route("ttl = 2.0"), "write \"2s\" for 2.0 seconds"),
        (route("ttl = -1.5"), "a duration is"),
        (route("ttl = 1e300"), "a duration is"),
        (route("match = 1"), "write a path, as in \"/users/{id}\""),
        (route("key = true"), "write text, as in \"user:{id}\""),
        (route("tags = 1"), "write a list, as in [\"a\", \"b\"]"),
    ] {
        let told = errors(&text);
        assert!(told.contains(&format!("\n  = {wanted}")), "{wanted}\n--- is not in\n{told}");
    }
}

#[test]
fn what_only_follows_from_another_error_is_not_told() {
    let url = "upstream.url = \"http://a\"\n";
    let route = |rest: &str| format!("{url}[[route]]\nname = \"x\"\n{rest}");
    for (text, wanted) in [
        ("[upstrem]\nurl = \"http://a\"".to_owned(), "a.toml:1:2: unknown key `upstrem`"),
        ("[upstream]\nurll = \"http://a\"".to_owned(), "a.toml:2:1: unknown key `urll`"),
        (format!("{url}[[route]]\nnmae = \"x\""), "a.toml:3:1: unknown key `nmae`"),
        (route("origin = \"cap\"\ntll = \"60s\""), "a.toml:5:1: unknown key `tll`"),
        (route("query = { onyl = [\"a\"] }"), "a.toml:4:11: unknown key `onyl`"),
        (route("cookies = { kye = [\"a\"] }"), "a.toml:4:13: unknown key `kye`"),
        (route("methods = [\"GET\", \"post\"]\ninvalidates = [\"x\"]"), "a.toml:4:19: unknown value `post`"),
        (route("max_object = \"1GiB\"\n[stor]\nmemory = \"4GiB\""), "a.toml:5:2: unknown key `stor`"),
        (route("max_object = \"1GiB\"\n[store]\nmemory = 4294967296"), "a.toml:6:10: a size in quotes"),
        (format!("{url}[store]\nmemory = \"0\"\nredsi = \"redis://r\""), "a.toml:4:1: unknown key `redsi`"),
        (format!("{url}[invalidation]\nheartbeat = \"5s\"\nmax_lagg = \"9s\""), "a.toml:4:1: unknown key `max_lagg`"),
        (format!("{url}[invalidation]\nheartbeat = \"5s\"\nmax_lag = 9"), "a.toml:4:11: a duration in quotes"),
        (format!("{url}[upstream2]"), "a.toml:2:2: unknown key `upstream2`"),
        (
            route("match = \"/a\"\n[[route]]\nname = \"y\"\nmatch = \"/a\"\nmethods = [\"get\"]"),
            "a.toml:8:12: unknown value `get`",
        ),
    ] {
        let failed = Config::parse("a.toml", &text, Format::Toml).unwrap_err();
        let told = failed.to_string();
        assert!(told.starts_with(wanted), "{wanted}\n--- does not begin\n{told}");
        assert_eq!(failed.errors().len(), 1, "{told}");
    }
    // A section that is just not there, and routes that are sound, are judged beside any other error.
    let told = Config::parse("a.toml", "[lisen]\n", Format::Toml).unwrap_err().to_string();
    assert!(told.contains("upstream.url is missing"), "{told}");
    let told = errors(
        "[[route]]\nname = \"x\"\nmatch = \"/a\"\n[[route]]\nname = \"y\"\nmatch = \"/a\"\n[[route]]\nname = \"z\"\nttl = 1",
    );
    assert!(told.contains("the routes `x` and `y` both match") && told.contains("write \"1s\""), "{told}");
}

#[test]
fn two_routes_for_the_same_requests_are_told_what_to_change() {
    let told = errors("[[route]]\nname = \"x\"\nmatch = \"/a\"\n[[route]]\nname = \"y\"\nmatch = \"/a\"");
    assert!(told.ends_with("\n  = remove one, or give it `host` or `methods`; the first is at a.toml:3:1"), "{told}");
}

#[test]
fn the_name_that_is_taken_is_pointed_at() {
    let text = "[[route]]\nmatch = \"/x\"\nname = \"r\"\n[[route]]\nname = \"r\"";
    let told = errors(text);
    assert!(told.contains("the first is at a.toml:5:8"), "{told}");
}

/// A self-signed certificate and its key, as PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn certificates_for_redis_are_read_and_what_is_wrong_with_them_is_told_where_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (cert, key) = certificate();
    let (ca, cert) = (file("ca", &cert), file("cert", &cert));
    let (key, other) = (file("key", &key), file("other", &certificate().1));
    let (empty, broken) =
        (file("empty", "nothing"), file("broken", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"));
    let odd = file("odd", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let locked = file("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let store = |rest: &str| format!("[store]\nredis = \"rediss://h\"\n{rest}");
    let all = store(&format!("redis_ca = '{ca}'\nredis_cert = '{cert}'\nredis_key = '{key}'"));
    let tls = toml(&all).unwrap().store.redis_tls;
    assert_eq!(tls.ca, Some(ca.clone().into()));
    assert_eq!(tls.identity, Some((cert.clone().into(), key.clone().into())));
    assert!(tls.settings().is_ok());
    for (rest, wanted) in [
        ("redis_ca = '/nowhere/ca'".to_owned(), "a.toml:5:12: this file can't be read: No such file"),
        (format!("redis_ca = '{empty}'"), "a.toml:5:12: there is no certificate in this file (PEM)"),
        (format!("redis_ca = '{broken}'"), "a.toml:5:12: this file is no PEM"),
        (format!("redis_ca = '{odd}'"), "a.toml:5:12: a certificate in this file can't be used"),
        (format!("redis_ca = '{key}'"), "a.toml:5:12: there is no certificate in this file (PEM)"),
        (format!("redis_cert = '{cert}'"), "a.toml:5:14: `redis_cert` is of no use without `redis_key`"),
        (format!("redis_key = '{key}'"), "a.toml:5:13: `redis_key` is of no use without `redis_cert`"),
        (format!("redis_cert = '{cert}'\nredis_key = '{cert}'"), "a.toml:6:13: there is no private key in this file"),
        (
            format!("redis_cert = '{cert}'\nredis_key = '{locked}'"),
            "a.toml:6:13: the private key in this file is encrypted",
        ),
        (
            format!("redis_cert = '{cert}'\nredis_key = '{other}'"),
            "a.toml:6:13: the key is not the one of the certificate",
        ),
    ] {
        let told = errors(&store(&rest));
        assert!(told.starts_with(wanted), "{wanted}\n--- does not begin\n{told}");
        assert_eq!(toml(&store(&rest)).unwrap_err().errors().len(), 1, "{told}");
    }
    for redis in ["", "redis = \"redis://h\"", "redis = \"unix:///r\"", "redis = \"redis+cluster://h\""] {
        let told = errors(&format!("[store]\n{redis}\nredis_ca = '{ca}'"));
        assert!(told.starts_with("a.toml:5:12: `redis_ca` has no meaning"), "{told}");
        assert!(told.contains("\"rediss+sentinel\""), "{told}");
    }
    let told = errors(&format!("[store]\nredis = \"x\"\nredis_ca = '{ca}'"));
    assert!(!told.contains("has no meaning"), "nobody knows what was meant: {told}");
}

#[test]
fn a_url_of_redis_is_told_with_the_right_form_for_what_was_meant() {
    for (url, wanted) in [
        ("redis-sentinel://h/m", "= sentinels are given as \"redis+sentinel://user:password@host:26379"),
        ("redis+sentinel://h", "the URL does not say what the sentinels call the master"),
        ("redis+cluster://h/3", "= a cluster is given as \"redis+cluster://"),
        ("redis+unix://run/x", "= a socket is given as \"redis+unix:///run/redis.sock\""),
        ("redis://a,b", "this names several servers"),
    ] {
        let told = errors(&format!("[store]\nredis = \"{url}\""));
        assert!(told.starts_with("a.toml:4:9: ") && told.contains(wanted), "{wanted}\n--- is not in\n{told}");
    }
}
