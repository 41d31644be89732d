//! Proxying as such: protocols, streaming, fields, tunnels, failures, bounds, connections and how they end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Answer, DEADLINE, Gate, Instance, Nobody, Origin, RawOrigin, Wire, eventually, ok, status, with};

const NO_STORE: &str = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n";

/// A whole response to be played.
fn whole(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A problem document of ours, and nothing of anybody's insides in it.
fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let document: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(document["status"], status);
    assert!(document["title"].is_string() && document["detail"].is_string());
    for inside in ["127.0.0.1", "hyper", "os error", "rust", "tokio", "src/"] {
        assert!(!answer.body.to_lowercase().contains(inside), "{}", answer.body);
    }
}

/// An HTTP/2 connection with prior knowledge.
async fn http2(proxy: &Instance) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(proxy.server.proxy).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn send2(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    body: &'static str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://two.example{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let (head, body) = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap().into_parts();
    let body = timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_is_served_and_shares_entries_with_http1() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    let mut two = http2(&proxy).await;
    let first = send2(&mut two, Method::GET, "/a", &[], "").await;
    assert_eq!((first.status, first.body.as_str()), (200, "call 1"));
    eventually("it is stored", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
    assert!(send2(&mut two, Method::GET, "/a", &[], "").await.is_hit("memory"));
    let mut one = Wire::connect(proxy.server.proxy).await;
    one.send("GET /a HTTP/1.1\r\nHost: two.example\r\n\r\n").await;
    assert!(one.answer().await.is_hit("memory"));
    let seen = &origin.seen()[0];
    assert_eq!((seen.header("via"), seen.header("x-forwarded-host")), ("2.0 asidecar", "two.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_bodies_and_split_cookies_reach_upstream_as_http1_wants_them() {
    let origin = Origin::start(|seen| async move { ok(seen.body) }).await;
    let proxy = Instance::start(&origin, "");
    let mut two = http2(&proxy).await;
    let echoed = send2(&mut two, Method::POST, "/a", &[("cookie", "a=1"), ("cookie", "b=2")], "content").await;
    assert_eq!((echoed.status, echoed.body.as_str()), (200, "content"));
    let seen = &origin.seen()[0];
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_on_one_connection_do_not_wait_for_each_other() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |seen| {
        let gate = held.clone();
        async move {
            if seen.target == "/slow" {
                gate.pass().await;
            }
            ok(seen.target)
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    let two = http2(&proxy).await;
    let slow = tokio::spawn({
        let mut two = two.clone();
        async move { send2(&mut two, Method::GET, "/slow", &[], "").await }
    });
    gate.wait_for(1).await;
    assert_eq!(send2(&mut two.clone(), Method::GET, "/quick", &[], "").await.body, "/quick");
    gate.open(1);
    assert_eq!(slow.await.unwrap().body, "/slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_an_answer_it_can_read_and_the_connection_closed() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        let head = wire.head().await;
        assert!(head.contains("via: 1.0 asidecar"), "{head}");
        wire.send(format!("{NO_STORE}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let got = proxy.raw("GET /a HTTP/1.0\r\n\r\n").await.to_ascii_lowercase();
    assert!(got.starts_with("http/1.0 200"), "{got}");
    assert!(!got.contains("transfer-encoding"), "{got}");
    assert!(got.ends_with("\r\n\r\nabc"), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_body_reaches_upstream_while_the_client_still_sends() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = RawOrigin::start(move |mut wire, _| {
        let gate = held.clone();
        async move {
            wire.until("first\r\n").await;
            gate.pass().await;
            wire.until("second\r\n0\r\n\r\n").await;
            wire.send(whole("", "all came")).await;
            wire.rest().await;
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    gate.wait_for(1).await;
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    gate.open(1);
    assert_eq!(client.answer().await.body, "all came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_body_reaches_the_client_while_upstream_still_sends_stored_or_not() {
    for cache_control in ["max-age=60", "no-store"] {
        let gate = Gate::closed();
        let held = gate.clone();
        let origin = RawOrigin::start(move |mut wire, _| {
            let gate = held.clone();
            async move {
                wire.head().await;
                wire.send(format!("HTTP/1.1 200 OK\r\nCache-Control: {cache_control}\r\n")).await;
                wire.send("Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
                gate.pass().await;
                wire.send("6\r\nsecond\r\n0\r\n\r\n").await;
                wire.rest().await;
            }
        })
        .await;
        let proxy = Instance::in_front_of(origin.address, "");
        let mut client = Wire::connect(proxy.server.proxy).await;
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("first").await;
        gate.open(1);
        client.until("second").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_one_connection_stay_on_it_in_both_directions() {
    let origin = Origin::start(|_| async {
        with(
            ok("x"),
            &[
                ("connection", "X-Between, keep-alive"),
                ("x-between", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("x-kept", "1"),
                ("cache-control", "max-age=60"),
            ],
        )
    })
    .await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client
        .send(
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-Yours: 1\r\n\r\n",
        )
        .await;
    let first = client.answer().await;
    eventually("it is stored", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
    let hit = client.get("/a").await;
    for answer in [first, hit] {
        assert_eq!(answer.header("x-kept"), "1");
        for gone in ["x-between", "keep-alive", "proxy-connection"] {
            assert!(!answer.headers.contains_key(gone), "{gone}");
        }
    }
    let seen = &origin.seen()[0];
    assert_eq!(seen.header("x-yours"), "1");
    for gone in ["x-mine", "keep-alive", "proxy-connection", "te", "connection"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_described_and_its_own_claims_are_replaced() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client
        .send(
            "GET /a HTTP/1.1\r\nHost: public.example\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nVia: 1.1 other\r\nX-Real-IP: 6.6.6.6\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("via"), "1.1 asidecar");
    let seen = &origin.seen()[0];
    assert_eq!(seen.header("host"), origin.address.to_string());
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-host"), "public.example");
    assert_eq!(seen.header("forwarded"), "for=127.0.0.1;host=\"public.example\";proto=http");
    assert_eq!(seen.headers.get_all("via").iter().collect::<Vec<_>>(), ["1.1 other", "1.1 asidecar"]);
    assert!(!seen.headers.contains_key("x-real-ip"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_and_extended_and_the_host_can_be_preserved() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[upstream]\ntrusted_proxies = [\"127.0.0.0/8\"]\nhost = \"preserve\"\n");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client
        .send(
            "GET /a HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: public.example\r\nForwarded: for=6.6.6.6\r\n\r\n",
        )
        .await;
    client.answer().await;
    let seen = &origin.seen()[0];
    assert_eq!(seen.header("host"), "inner");
    assert_eq!(seen.header("x-forwarded-for"), "6.6.6.6, 127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "https");
    assert_eq!(seen.header("x-forwarded-host"), "public.example");
    assert!(seen.header("forwarded").starts_with("for=6.6.6.6, for=127.0.0.1"), "{}", seen.header("forwarded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_becomes_a_tunnel_through_which_bytes_go_both_ways() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        let head = wire.head().await;
        assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key: abc"), "{head}");
        assert!(head.contains("connection: upgrade"), "{head}");
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
        let word = wire.exactly(4).await;
        wire.send(format!("you said {word}")).await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    assert_eq!(client.exactly(5).await, "hello");
    client.send("ping").await;
    assert_eq!(client.rest().await, "you said ping", "and upstream's end is the tunnel's end");
    assert_eq!(proxy.metric("tunnels_total").await, 1.0);
}

/// Its body may take longer than the answer to its head, and until then nothing can be switched to.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_body_never_becomes_a_tunnel() {
    let origin = Origin::counting("no-store").await;
    let proxy = Instance::start(&origin, "");
    let offer = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n";
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send(offer).await;
    client.send("abc").await;
    assert_eq!(client.answer().await.body, "call 1");
    assert!(!origin.seen()[0].headers.contains_key("upgrade"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_tunnel_end_by_itself() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
        let word = wire.exactly(4).await;
        wire.send(format!("you said {word}")).await;
    })
    .await;
    let proxy = Instance::configured(origin.address, "", |config| config.listen.drain_timeout = 4 * DEADLINE);
    let address = proxy.server.proxy;
    let mut client = Wire::connect(address).await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.exactly(5).await, "hello");
    proxy.server.drain();
    eventually("connections are refused", || async { TcpStream::connect(address).await.is_err() }).await;
    client.send("ping").await;
    assert_eq!(client.rest().await, "you said ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_is_answered_like_any_request_and_never_stored() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for call in ["call 1", "call 2"] {
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let refused = client.answer().await;
        assert_eq!((refused.status, refused.body.as_str()), (200, call));
        assert_eq!(refused.cache_status(), "asidecar; fwd=bypass; fwd-status=200; detail=upgrade");
        assert!(!refused.headers.contains_key("upgrade"));
    }
    assert_eq!(proxy.metric("tunnels_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_field_that_connection_does_not_name_is_no_upgrade() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n").await;
    assert!(client.answer().await.cache_status().ends_with("; stored"));
    assert!(!origin.seen()[0].headers.contains_key("upgrade"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_gets_it_before_it_sends_its_body() {
    let origin = Origin::start(|seen| async move { ok(seen.body) }).await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let interim = client.head().await;
    assert!(interim.starts_with("http/1.1 100"), "{interim}");
    client.send("body").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "body"));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_trailers_reach_upstream() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        let head = wire.head().await;
        assert!(head.contains("trailer: x-sum"), "{head}");
        let body = wire.until("\r\n\r\n").await.to_ascii_lowercase();
        assert_eq!(body, "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n");
        wire.send(whole("", "summed")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n").await;
    client.send("3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "summed");
}

#[tokio::test(flavor = "multi_thread")]
async fn response_trailers_reach_the_client_and_a_response_with_trailers_is_not_stored() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        for _ in 0..2 {
            let head = wire.head().await;
            assert!(head.contains("te: trailers"), "{head}");
            wire.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTrailer: X-Sum\r\n").await;
            wire.send("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n").await;
        }
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for _ in 0..2 {
        client.send("GET /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.body.as_str(), answer.header("x-sum")), ("abc", "6"));
        assert!(answer.cache_status().ends_with("detail=trailers"), "{}", answer.cache_status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_connections_is_a_502() {
    let nobody = Nobody::new();
    let proxy = Instance::in_front_of(nobody.address, "");
    assert_problem(&proxy.get("/a").await, 502);
    assert_problem(&proxy.send(Method::POST, "/a", &[], "x").await, 502);
    let status = proxy.get("/b").await;
    assert_eq!(status.cache_status(), "asidecar; fwd=uri-miss; detail=upstream_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_a_504() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "[upstream]\ntimeout = \"50ms\"\n");
    assert_problem(&proxy.get("/a").await, 504);
    assert_problem(&proxy.send(Method::POST, "/a", &[], "x").await, 504);
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_problem(&client.answer().await, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_answers_with_what_is_no_http_is_a_502() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("SSH-2.0-OpenSSH_9.2 at /home/secret\r\n\r\n").await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let answer = proxy.get("/a").await;
    assert_problem(&answer, 502);
    assert!(!answer.body.contains("SSH"), "{}", answer.body);
    assert_eq!(origin.connections(), 1, "asking again would not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_is_broken_for_the_client_too_and_never_stored() {
    for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let gate = Gate::closed();
        let held = gate.clone();
        let origin = RawOrigin::start(move |mut wire, n| {
            let gate = held.clone();
            async move {
                wire.head().await;
                if n == 1 {
                    wire.send(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{framing}")).await;
                    gate.pass().await;
                    return wire.reset();
                }
                wire.send(whole("Cache-Control: max-age=60\r\n", "the whole one")).await;
                wire.rest().await;
            }
        })
        .await;
        let proxy = Instance::in_front_of(origin.address, "");
        let mut client = Wire::connect(proxy.server.proxy).await;
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("half").await;
        gate.open(1);
        assert!(!client.rest().await.contains("0\r\n\r\n"), "it must not look complete; {framing}");
        let mut client = Wire::connect(proxy.server.proxy).await;
        assert_eq!(client.get("/a").await.body, "the whole one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_stalls_breaks_off_after_the_idle_timeout() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        wire.head().await;
        wire.send(format!("{NO_STORE}Content-Length: 10\r\n\r\nhalf")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "[upstream]\nidle_timeout = \"50ms\"\n");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.answer_or_broken().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_upstream_connections_are_in_use_it_says_try_again() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |seen| {
        let gate = held.clone();
        async move {
            if seen.target == "/slow" {
                gate.pass().await;
            }
            ok("done")
        }
    })
    .await;
    let limits = "[upstream]\nmax_connections = 1\nconnect_timeout = \"50ms\"\n";
    let proxy = Arc::new(Instance::start(&origin, limits));
    let slow = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.get("/slow").await }
    });
    gate.wait_for(1).await;
    let busy = proxy.get("/other").await;
    assert_problem(&busy, 503);
    assert_eq!(busy.header("retry-after"), "1");
    gate.open(1);
    assert_eq!(slow.await.unwrap().body, "done");
    assert_eq!(proxy.get("/other").await.body, "done", "and then there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_upstream_has_answered_and_reads_no_more_of_leaves_its_place_to_others() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        if wire.head().await.starts_with("put") {
            wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
            std::future::pending::<()>().await;
        }
        wire.send(whole("Connection: close\r\n", "done")).await;
    })
    .await;
    let limits = "[listen]\nmax_body = \"0\"\n[upstream]\nmax_connections = 1\nidle_timeout = \"300ms\"\nconnect_timeout = \"100ms\"\n";
    let proxy = Instance::in_front_of(origin.address, limits);
    let mut client = TcpStream::connect(proxy.server.proxy).await.unwrap();
    client.write_all(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let uploading = tokio::spawn(async move { while client.write_all(&[b'x'; 65536]).await.is_ok() {} });
    eventually("it holds the only place", || async { proxy.get("/b").await.status == 503 }).await;
    eventually("the place is free again", || async { proxy.get("/b").await.status == 200 }).await;
    uploading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_announced_larger_than_allowed_is_a_413_and_goes_nowhere() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[listen]\nmax_body = \"1KiB\"\n");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n").await;
    assert_problem(&client.answer().await, 413);
    assert_eq!(client.rest().await, "", "and the connection is closed");
    assert_eq!(origin.calls(), 0);
    assert_eq!(proxy.send(Method::PUT, "/a", &[], &"x".repeat(1024)).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_that_grows_larger_than_allowed_is_a_413() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[listen]\nmax_body = \"1KiB\"\n");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(format!("258\r\n{0}\r\n258\r\n{0}\r\n", "x".repeat(600))).await;
    assert_problem(&client.answer().await, 413);
    assert_eq!(client.rest().await, "", "and the connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_longer_than_allowed_is_a_414_and_goes_nowhere() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[listen]\nmax_uri = \"256B\"\n");
    assert_eq!(proxy.get(&format!("/{}", "a".repeat(255))).await.status, 200);
    assert_problem(&proxy.get(&format!("/{}", "a".repeat(256))).await, 414);
    assert_problem(&proxy.get(&format!("/?{}", "a".repeat(255))).await, 414);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_larger_than_allowed_is_a_431_and_goes_nowhere() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[listen]\nmax_header = \"8KiB\"\nmax_uri = \"1KiB\"\n");
    let one_field = format!("X-A: {}\r\n", "a".repeat(9000));
    let many_fields = "X-A: a\r\n".repeat(1200);
    for fields in [one_field, many_fields] {
        let got = proxy.raw(&format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        assert!(got.starts_with("HTTP/1.1 431"), "{got}");
    }
    assert_eq!(origin.calls(), 0);
    assert_eq!(proxy.get_with("/a", &[("x-a", &"a".repeat(7000))]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_head_is_refused_however_it_arrives() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let limit = proxy.server.core.config.listen.max_header;
    for over in [100, 4000, 8000, 16000, 32000] {
        let field = "a".repeat(usize::try_from(limit).unwrap() + over);
        let got = proxy.raw(&format!("GET /a HTTP/1.1\r\nHost: a\r\nX-A: {field}\r\n\r\n")).await;
        assert!(got.starts_with("HTTP/1.1 431"), "{over} over: {got}");
    }
    let mut two = http2(&proxy).await;
    let field = "a".repeat(usize::try_from(limit).unwrap() + 100);
    assert_eq!(send2(&mut two, Method::GET, "/a", &[("x-a", &field)], "").await.status, 431);
    assert_eq!(origin.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_is_a_400_and_nothing_of_it_goes_upstream() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: \r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
    ] {
        let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let got = proxy.raw(&format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n{smuggled}")).await;
        assert!(got.starts_with("HTTP/1.1 400"), "{fields:?}: {got}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "the connection is closed after it; {fields:?}: {got}");
    }
    let old = proxy.raw("POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert!(old.contains(" 400 "), "{old}");
    assert_eq!(origin.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_refuse_ourselves_says_so_in_a_problem_document_and_is_counted() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let answer = client.answer().await;
    assert_problem(&answer, 400);
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(client.rest().await, "");
    assert_eq!(proxy.metric("malformed_total{what=\"request\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_fields_and_targets_are_a_400_and_nothing_of_them_goes_upstream() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    for request in [
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A: a\u{1}b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A: a\u{0}b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A: a\u{7f}b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A: a\rX-B: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A: a\nX-B: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A: a\r\n folded\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX A: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-A : a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\u{1} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET /a HTTP/2.0\r\nHost: a\r\n\r\n",
        "G@T /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\r\n\r\n",
    ] {
        let mut client = Wire::connect(proxy.server.proxy).await;
        client.send(format!("{request}GET /next HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 400, "{request:?}");
        assert_eq!(client.rest().await, "", "the connection is closed after it; {request:?}");
    }
    assert_eq!(origin.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_exactly_one_sound_host() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: user@a\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a,b\r\n",
        "Host: a\\b\r\n",
        "Host: \u{e4}\r\n",
    ] {
        let got = proxy.raw(&format!("GET /a HTTP/1.1\r\n{hosts}\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(got.starts_with("HTTP/1.1 400"), "{hosts:?}: {got}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "the connection is closed after it; {hosts:?}: {got}");
    }
    assert_eq!(origin.calls(), 0);
    for host in ["a", "a:80", "[::1]:80", "127.0.0.1", "under_score.example"] {
        let mut client = Wire::connect(proxy.server.proxy).await;
        client.send(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_in_an_absolute_target_wins_over_the_field() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET http://one.example/a?b HTTP/1.1\r\nHost: two.example\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "call 1");
    let seen = &origin.seen()[0];
    assert_eq!((seen.target.as_str(), seen.header("x-forwarded-host")), ("/a?b", "one.example"));
    eventually("it is stored", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
    client.send("GET /a?b HTTP/1.1\r\nHost: two.example\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "call 2", "another host's");
    client.send("GET /a?b HTTP/1.1\r\nHost: one.example\r\n\r\n").await;
    assert!(client.answer().await.is_hit("memory"));
    client.send("GET /a?b HTTP/1.1\r\nHost: ONE.example\r\n\r\n").await;
    assert!(client.answer().await.is_hit("memory"), "hosts have no case");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_whole_server_pass_and_connect_is_not_served() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 204);
    assert_eq!(origin.seen()[0].target, "*");
    client.send("CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\n").await;
    assert_problem(&client.answer().await, 405);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |seen| {
        let gate = held.clone();
        async move {
            if seen.target == "/slow" {
                gate.pass().await;
            }
            ok(format!("{} {}", seen.target, String::from_utf8_lossy(&seen.body)))
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client
        .send(
            "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
             POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n\
             GET /d HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    gate.wait_for(1).await;
    gate.open(1);
    for body in ["/slow ", "/b one", "/c two", "/d "] {
        assert_eq!(client.answer().await.body, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_become_complete_in_time_ends_the_connection_however_it_dribbles() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[listen]\nheader_timeout = \"100ms\"\n");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.get("/a").await;
    client.send("GET /b HTTP/1.1\r\nHost").await;
    assert_eq!(client.rest().await, "");

    let stream = TcpStream::connect(proxy.server.proxy).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dribble = async move {
        use tokio::io::AsyncWriteExt;
        while write.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let closed = async move {
        let mut nothing = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut nothing).await;
    };
    timeout(DEADLINE, async {
        tokio::select! { () = dribble => {}, () = closed => {} }
    })
    .await
    .expect("an end");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_whether_it_said_something_or_not() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[listen]\nidle_timeout = \"100ms\"\n");
    let mut silent = Wire::connect(proxy.server.proxy).await;
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.get("/a").await;
    assert_eq!(client.rest().await, "");
    assert_eq!(silent.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_idle_while_its_request_is_answered_however_slowly() {
    let (head, rest) = (Gate::closed(), Gate::closed());
    let gates = (head.clone(), rest.clone());
    let origin = RawOrigin::start(move |mut wire, _| {
        let (head, rest) = gates.clone();
        async move {
            wire.head().await;
            head.pass().await;
            wire.send("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 6\r\n\r\nabc").await;
            rest.pass().await;
            wire.send("def").await;
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "[listen]\nidle_timeout = \"60ms\"\n");
    // Each of them is closed when it has been idle for long enough: so long has the other one waited.
    let idle = async || {
        for _ in 0..3 {
            let mut silent = Wire::connect(proxy.server.proxy).await;
            assert_eq!(silent.rest().await, "");
        }
    };
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    head.wait_for(1).await;
    idle().await;
    head.open(1);
    rest.wait_for(1).await;
    idle().await;
    rest.open(1);
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "abcdef"));
    assert_eq!(client.rest().await, "", "then it is idle, and closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_bound_wait_until_there_is_room() {
    let origin = Origin::counting("").await;
    let proxy = Instance::configured(origin.address, "", |config| config.listen.max_connections = 1);
    let mut first = Wire::connect(proxy.server.proxy).await;
    first.get("/a").await;
    let mut second = Wire::connect(proxy.server.proxy).await;
    second.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for _ in 0..20 {
        first.get("/a").await;
        assert_eq!(proxy.server.core.metrics.connections.get(), 1);
    }
    assert!(origin.seen().iter().all(|s| s.target != "/second"));
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

/// An origin that answers every request on every connection and keeps them.
async fn keeping() -> RawOrigin {
    RawOrigin::start(|mut wire, n| async move {
        loop {
            wire.head().await;
            wire.send(whole("Cache-Control: no-store\r\n", &format!("connection {n}"))).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_upstream_are_kept_and_used_again() {
    let origin = keeping().await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for _ in 0..5 {
        assert_eq!(client.get("/a").await.body, "connection 1");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_idle_connections_allowed_each_request_makes_its_own() {
    let origin = keeping().await;
    let proxy = Instance::in_front_of(origin.address, "[upstream]\nmax_idle = 0\n");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for n in 1..=3 {
        assert_eq!(client.get("/a").await.body, format!("connection {n}"));
    }
}

/// An origin whose first connection answers once and breaks off at the second request.
async fn closing_on_the_second_request() -> RawOrigin {
    RawOrigin::start(|mut wire, n| async move {
        wire.head().await;
        wire.send(whole("Cache-Control: no-store\r\n", &format!("connection {n}"))).await;
        wire.head().await;
        if n > 1 {
            wire.send(whole("Cache-Control: no-store\r\n", "again")).await;
            wire.rest().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_breaks_as_it_is_used_again_is_no_error_for_a_get() {
    let origin = closing_on_the_second_request().await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    assert_eq!(client.get("/a").await.body, "connection 1");
    assert_eq!(client.get("/a").await.body, "connection 2");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_may_have_arrived_is_not_sent_twice() {
    let origin = closing_on_the_second_request().await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    assert_eq!(client.get("/a").await.body, "connection 1");
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_problem(&client.answer().await, 502);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_upstream_has_closed_is_not_used_for_a_post_and_closed_here_too() {
    let (close, closed) = (Gate::closed(), Gate::closed());
    let gates = (close.clone(), closed.clone());
    let origin = RawOrigin::start(move |mut wire, n| {
        let (close, closed) = gates.clone();
        async move {
            wire.head().await;
            wire.send(whole("Cache-Control: no-store\r\n", &format!("connection {n}"))).await;
            if n == 1 {
                close.pass().await;
                wire.finish().await;
                closed.open(1);
            }
            wire.rest().await;
            closed.open(1);
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    assert_eq!(client.get("/a").await.body, "connection 1");
    close.open(1);
    closed.pass().await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "connection 2");
    closed.pass().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_upstream_closes_does_not_stay_half_open() {
    let (close, closed) = (Gate::closed(), Gate::closed());
    let gates = (close.clone(), closed.clone());
    let origin = RawOrigin::start(move |mut wire, _| {
        let (close, closed) = gates.clone();
        async move {
            wire.head().await;
            wire.send(whole("Cache-Control: no-store\r\n", "once")).await;
            close.pass().await;
            wire.finish().await;
            wire.rest().await;
            closed.open(1);
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    assert_eq!(proxy.get("/a").await.body, "once");
    close.open(1);
    closed.pass().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_where_upstream_answered_before_it_had_all_of_the_request() {
    let origin = RawOrigin::start(|mut wire, n| async move {
        wire.head().await;
        if n > 1 {
            return wire.send(whole("Connection: close\r\n", &format!("connection {n}"))).await;
        }
        wire.send(whole("", "connection 1")).await;
        wire.until("the end").await;
        wire.head().await;
        wire.send(whole("", "connection 1 again")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\nhalf of ").await;
    let answer = client.answer().await;
    assert_eq!(answer.body, "connection 1");
    client.send("the end").await;
    // The same client connection, and so the same worker. Upstream's may not be free at once.
    let again = async { while client.get("/b").await.body != "connection 1 again" {} };
    timeout(DEADLINE, again).await.expect("the connection is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_response_nobody_wants_any_more_is_closed_and_never_used_again() {
    let closed = Gate::closed();
    let gate = closed.clone();
    let origin = RawOrigin::start(move |mut wire, n| {
        let closed = gate.clone();
        async move {
            wire.head().await;
            if n == 1 {
                wire.send("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 100\r\n\r\nbegun").await;
                wire.rest().await;
                closed.open(1);
            } else {
                wire.send(whole("Cache-Control: no-store\r\n", &format!("connection {n}"))).await;
                wire.rest().await;
            }
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("begun").await;
    drop(client);
    closed.pass().await;
    assert_eq!(proxy.get("/a").await.body, "connection 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_upstream_never_answers_is_given_up_after_the_second_try() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        wire.head().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    assert_problem(&proxy.get("/a").await, 502);
    assert!(origin.connections() <= 2, "{}", origin.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_path_of_the_upstream_is_put_before_every_target() {
    let origin = Origin::counting("").await;
    let proxy = Instance::configured(origin.address, "", |config| config.upstream.url.base_path = "/base".into());
    assert_eq!(proxy.get("/a?b=c").await.status, 200);
    assert_eq!(origin.seen()[0].target, "/base/a?b=c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_or_a_status_without_a_body_leaves_the_connection_in_order() {
    let origin = Origin::start(|seen| async move {
        match seen.target.as_str() {
            "/204" => status(204),
            "/304" => status(304),
            _ => ok("body"),
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.head().await.contains("content-length: 4"));
    for (path, status, body) in [("/204", 204, ""), ("/304", 304, ""), ("/a", 200, "body")] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight_refuses_what_is_new_and_then_ends() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            ok("finished")
        }
    })
    .await;
    let proxy = Instance::configured(origin.address, "", |config| config.listen.drain_timeout = 4 * DEADLINE);
    let address = proxy.server.proxy;
    let mut client = Wire::connect(address).await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    gate.wait_for(1).await;
    proxy.server.drain();
    eventually("connections are refused", || async { TcpStream::connect(address).await.is_err() }).await;
    gate.open(1);
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("finished", "close"));
    assert_eq!(client.rest().await, "");
    let Instance { server, .. } = proxy;
    timeout(DEADLINE, tokio::task::spawn_blocking(|| server.stop())).await.expect("the end").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_connections_on_which_nothing_goes_on() {
    let origin = Origin::counting("").await;
    let proxy = Instance::configured(origin.address, "", |config| config.listen.drain_timeout = 4 * DEADLINE);
    let mut silent = Wire::connect(proxy.server.proxy).await;
    let mut idle = Wire::connect(proxy.server.proxy).await;
    idle.get("/a").await;
    let two = http2(&proxy).await;
    send2(&mut two.clone(), Method::GET, "/a", &[], "").await;
    eventually("all are accepted", || async { proxy.server.core.metrics.connections.get() == 3 }).await;
    let Instance { server, .. } = proxy;
    timeout(DEADLINE, tokio::task::spawn_blocking(|| server.stop())).await.expect("the end").unwrap();
    assert_eq!(idle.rest().await, "");
    assert_eq!(silent.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_timeout_whatever_still_goes_on() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            ok("too late")
        }
    })
    .await;
    let shortly = Duration::from_millis(50);
    let proxy = Instance::configured(origin.address, "", |config| config.listen.drain_timeout = shortly);
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    gate.wait_for(1).await;
    let Instance { server, .. } = proxy;
    timeout(DEADLINE, tokio::task::spawn_blocking(|| server.stop())).await.expect("the end").unwrap();
    assert_eq!(client.rest().await, "");
}
