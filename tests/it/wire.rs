//! What a client sends can't become a line, a message or a key of its own further on.

use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::Value;

use crate::support::{Gate, Instance, Origin, RawOrigin, Wire, eventually, ok, with};

#[tokio::test(flavor = "multi_thread")]
async fn encoded_line_ends_in_a_target_stay_encoded_on_their_way_and_in_the_key() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"user\"\nmatch = \"/users/{id}\"\nkey = \"user:{id}\"\n");
    let injected = "%0d%0aX-Injected:%201%0d%0a%0d%0aGET%20/admin%20HTTP/1.1";
    for path in [format!("/users/{injected}"), format!("/a?q={injected}")] {
        let answer = proxy.fill(&path).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.headers.contains_key("x-injected"));
        assert!(proxy.get(&path).await.is_hit("memory"));
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.target, path, "the same bytes");
        assert!(!seen.headers.contains_key("x-injected"));
    }
    let listed = proxy.admin(Method::GET, "/api/entries", &[], "").await;
    let listed: Value = serde_json::from_str(&listed.body).unwrap();
    for entry in listed["entries"].as_array().unwrap() {
        assert!(!entry["key"].as_str().unwrap().contains(char::is_control), "{entry}");
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_echoes_of_a_request_stays_one_field() {
    let origin = Origin::start(|seen| async move {
        with(ok("x"), &[("x-echo", seen.header("x-asked")), ("cache-control", "max-age=60")])
    })
    .await;
    let proxy = Instance::start(&origin, "");
    let asked = "%0d%0aSet-Cookie: a=1; \\r\\n\tX-Injected: 1";
    for _ in 0..2 {
        let mut client = Wire::connect(proxy.server.proxy).await;
        client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Asked: {asked}\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.header("x-echo"), asked);
        assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("x-injected"));
        eventually("the fill is over", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_whose_fields_are_malformed_is_a_502_and_never_stored() {
    for head in [
        "HTTP/1.1 200 OK\r\nX-A: a\u{0}b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: a\rX-B: b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 999999 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/7.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let origin = RawOrigin::start(move |mut wire, _| async move {
            wire.head().await;
            wire.send(head.replace("\r\n\r\n", "\r\nCache-Control: max-age=60\r\n\r\n")).await;
            wire.rest().await;
        })
        .await;
        let proxy = Instance::in_front_of(origin.address, "");
        for _ in 0..2 {
            assert_eq!(proxy.get("/a").await.status, 502, "{head:?}");
        }
        assert_eq!(origin.connections(), 2, "{head:?}: asked each time, and once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_sends_after_its_response_is_never_another_requests_answer() {
    let origin = RawOrigin::start(|mut wire, n| async move {
        wire.head().await;
        let body = format!("connection {n}");
        let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}{poison}", body.len())).await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for n in 1..=3 {
        assert_eq!(client.get(&format!("/{n}")).await.body, format!("connection {n}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_sends_unasked_on_a_kept_connection_is_nobodys_answer() {
    let (speak, spoken) = (Gate::closed(), Gate::closed());
    let gates = (speak.clone(), spoken.clone());
    let origin = RawOrigin::start(move |mut wire, n| {
        let (speak, spoken) = gates.clone();
        async move {
            wire.head().await;
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nconnection {n}")).await;
            speak.pass().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await;
            spoken.open(1);
            wire.rest().await;
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for n in 1..=3 {
        assert_eq!(client.get(&format!("/{n}")).await.body, format!("connection {n}"));
        speak.open(1);
        spoken.pass().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_of_upstream_are_no_answer() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        loop {
            wire.head().await;
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
            wire.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nbody").await;
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let answer = proxy.fill("/a").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "body"));
    assert!(proxy.get("/a").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smuggled_request_in_a_body_stays_a_body() {
    let origin = Origin::start(|seen| async move { ok(seen.body) }).await;
    let proxy = Instance::start(&origin, "");
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len())).await;
    assert_eq!(client.answer().await.body, smuggled);
    client
        .send(format!(
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
            smuggled.len()
        ))
        .await;
    assert_eq!(client.answer().await.body, smuggled);
    assert_eq!(client.get("/b").await.status, 200);
    let targets: Vec<String> = origin.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(targets, ["/a", "/a", "/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_chunks_are_malformed_closes_the_connection_and_completes_nothing_upstream() {
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "-3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
    ] {
        let got_upstream = Arc::<Mutex<Option<String>>>::default();
        let note = got_upstream.clone();
        let origin = RawOrigin::start(move |mut wire, _| {
            let note = note.clone();
            async move {
                let got = wire.rest().await;
                *note.lock().unwrap() = Some(got);
            }
        })
        .await;
        let proxy = Instance::in_front_of(origin.address, "");
        let got = proxy
            .raw(&format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert!(got.starts_with("HTTP/1.1 400"), "{chunks:?}: {got}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{chunks:?}: {got}");
        if origin.connections() > 0 {
            eventually("upstream is cut off", || async { got_upstream.lock().unwrap().is_some() }).await;
            let got = got_upstream.lock().unwrap().take().unwrap();
            assert!(!got.ends_with("0\r\n\r\n") && !got.contains("GET /next"), "{chunks:?}: {got}");
        }
    }
}
