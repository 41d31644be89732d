//! Interim responses of upstream (1xx) on their way to the client that asked.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DEADLINE, Gate, Instance, RawOrigin, Wire, eventually};

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Hint: 1\r\n\r\n";
const STORED: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nfinal";
const NOT_STORED: &str = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 5\r\n\r\nfinal";

/// An origin that answers each request with these bytes.
async fn playing(bytes: impl Into<String>) -> RawOrigin {
    let bytes = bytes.into();
    RawOrigin::start(move |mut wire, _| {
        let bytes = bytes.clone();
        async move {
            loop {
                wire.head().await;
                wire.send(&bytes).await;
            }
        }
    })
    .await
}

/// An origin that sends the hint at once, and the response when the gate opens.
async fn holding(gate: Gate, response: &'static str) -> RawOrigin {
    RawOrigin::start(move |mut wire, _| {
        let gate = gate.clone();
        async move {
            loop {
                wire.head().await;
                wire.send(HINT).await;
                gate.pass().await;
                wire.send(response).await;
            }
        }
    })
    .await
}

async fn fills_are_over(proxy: &Instance) {
    eventually("the fill is over", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_reach_the_client_while_upstream_still_works_and_are_not_stored() {
    let gate = Gate::closed();
    let origin = holding(gate.clone(), STORED).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let hint = client.head().await;
    assert!(hint.starts_with("http/1.1 103 early hints\r\nlink: </a.css>; rel=preload\r\nx-hint: 1\r\n"), "{hint}");
    assert!(hint.contains("\r\nvia: 1.1 asidecar\r\n"), "{hint}");
    gate.open(1);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "final"));
    assert!(!answer.headers.contains_key("link") && !answer.headers.contains_key("x-hint"));
    fills_are_over(&proxy).await;
    for _ in 0..2 {
        let hit = client.get("/a").await;
        assert!(hit.status == 200 && hit.is_hit("memory"), "{hit:?}");
        assert!(!hit.headers.contains_key("link") && !hit.headers.contains_key("x-hint"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_interim_responses_keep_their_order_and_unknown_ones_pass_too() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </1>\r\nLink: </2>\r\n\r\n\
                   HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </3>\r\n\r\n";
    let origin = playing(format!("{interim}{STORED}")).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").await;
    for expected in [
        "http/1.1 102 processing\r\n",
        "http/1.1 103 early hints\r\nlink: </1>\r\nlink: </2>\r\n",
        "http/1.1 199 \r\n",
        "http/1.1 103 early hints\r\nlink: </3>\r\n",
        "http/1.1 200 ok\r\n",
    ] {
        let head = client.head().await;
        assert!(head.starts_with(expected), "{head}");
    }
    assert_eq!(client.exactly(5).await, "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_belong_to_upstreams_connection_or_frame_a_message_are_removed() {
    let fields = "Connection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\
                  Content-Length: 7\r\nX-Yours: 1\r\n";
    let origin = playing(format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n{STORED}")).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let hint = client.head().await;
    assert!(hint.starts_with("http/1.1 103 ") && hint.contains("\r\nx-yours: 1\r\n"), "{hint}");
    for gone in ["connection:", "x-mine:", "keep-alive:", "transfer-encoding:", "content-length:"] {
        assert!(!hint.contains(gone), "{hint}");
    }
    assert_eq!(client.answer().await.body, "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http_1_0_and_of_http_2_get_the_final_response_only() {
    let origin = playing([HINT, NOT_STORED].concat()).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    assert_eq!(client.get("/a").await.status, 103);
    assert_eq!(client.answer().await.status, 200);
    client.send("GET /b HTTP/1.0\r\nHost: test\r\n\r\n").await;
    let got = client.rest().await;
    assert!(got.starts_with("HTTP/1.0 200 ") && got.ends_with("\r\n\r\nfinal"), "{got}");

    let stream = TcpStream::connect(proxy.server.proxy).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://two.example/c").body(Full::<Bytes>::default()).unwrap();
    let answer = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
    assert!(answer.status() == 200 && !answer.headers().contains_key("link"));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_heads_bypasses_and_tunnels_get_theirs_too() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        loop {
            let head = wire.head().await;
            if head.starts_with("post") {
                wire.until("body").await;
            }
            let response = match &head {
                h if h.contains("upgrade: x") => {
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\ntunnelled"
                }
                h if h.starts_with("head") => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                _ => NOT_STORED,
            };
            wire.send([HINT, response].concat()).await;
        }
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for (request, status, body) in [
        ("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody", "200", "final"),
        ("HEAD /a HTTP/1.1\r\nHost: test\r\n\r\n", "200", ""),
        ("GET /a HTTP/1.1\r\nHost: test\r\nIf-Match: \"v\"\r\n\r\n", "200", "final"),
        ("GET /a HTTP/1.1\r\nHost: test\r\nCookie: a=1\r\n\r\n", "200", "final"),
        ("GET /a HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "101", "tunnelled"),
    ] {
        client.send(request).await;
        let hint = client.head().await;
        assert!(hint.starts_with("http/1.1 103 ") && hint.contains("\r\nx-hint: 1\r\n"), "{request}: {hint}");
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")) && !head.contains("x-hint"), "{request}: {head}");
        assert_eq!(client.exactly(body.len()).await, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_gets_one_of_ours_and_then_upstreams_others() {
    let origin = RawOrigin::start(|mut wire, _| async move {
        wire.until("body").await;
        wire.send(["HTTP/1.1 100 Continue\r\n\r\n", HINT, NOT_STORED].concat()).await;
        wire.rest().await;
    })
    .await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("PUT /a HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.send("body").await;
    let hint = client.answer().await;
    assert_eq!((hint.status, hint.header("x-hint")), (103, "1"));
    assert_eq!(client.answer().await.body, "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_anothers_fill_gets_the_final_response_only() {
    let gate = Gate::closed();
    let origin = holding(gate.clone(), STORED).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let (mut leader, mut waiter) = (Wire::connect(proxy.server.proxy).await, Wire::connect(proxy.server.proxy).await);
    assert_eq!(leader.get("/a").await.status, 103);
    waiter.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").await;
    eventually("somebody waits", || async { proxy.server.core.fills.waiting() == 1 }).await;
    gate.open(1);
    assert_eq!(leader.answer().await.status, 200);
    let answer = waiter.answer().await;
    assert!(answer.status == 200 && answer.cache_status().contains("; collapsed"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_behind_the_clients_back_sends_none() {
    let gate = Gate::closed();
    gate.open(1);
    let origin = holding(gate.clone(), STORED).await;
    let proxy = Instance::in_front_of(
        origin.address,
        "[[route]]\nname = \"all\"\nmatch = \"/{*rest}\"\nstale_while_revalidate = \"60s\"\n",
    );
    let mut client = Wire::connect(proxy.server.proxy).await;
    assert_eq!(client.get("/a").await.status, 103);
    assert_eq!(client.answer().await.status, 200);
    fills_are_over(&proxy).await;
    proxy.clock.advance(Duration::from_secs(90));
    let stale = client.get("/a").await;
    assert!(stale.cache_status().contains("; hit; ttl=-"), "{stale:?}");
    // Upstream has sent its hint, and the client asks for more meanwhile.
    gate.wait_for(2).await;
    assert_eq!(client.get("/a").await.status, 200);
    gate.open(1);
    fills_are_over(&proxy).await;
    let hit = client.get("/a").await;
    assert!(hit.status == 200 && hit.is_hit("memory"), "{hit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_them_is_cut_off_without_an_error() {
    let many: String = (0..40).map(|n| format!("HTTP/1.1 103 Early Hints\r\nX-N: {n}\r\n\r\n")).collect();
    let origin = playing(many + NOT_STORED).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    for _ in 0..2 {
        client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").await;
        for n in 0..32 {
            let hint = client.answer().await;
            assert_eq!((hint.status, hint.header("x-n")), (103, n.to_string().as_str()));
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "final"));
    }
}

/// Paths that begin with `/large` get a body of that many bytes, all others the hint and a short response.
async fn large_or_hinted(large: usize) -> RawOrigin {
    RawOrigin::start(move |mut wire, _| async move {
        loop {
            if wire.head().await.contains(" /large") {
                wire.send(format!("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: {large}\r\n\r\n"))
                    .await;
                wire.send("x".repeat(large)).await;
            } else {
                wire.send([HINT, NOT_STORED].concat()).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_keep_each_interim_response_between_two_final_ones() {
    // More than the sockets on the way hold: the first response is not written when the second request is read.
    let large = 12 * 1024 * 1024;
    let origin = large_or_hinted(large).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    client.send([request("/large"), request("/b"), request("/c"), request("/large"), request("/d")].concat()).await;
    for hinted in [false, true, true, false, true] {
        if hinted {
            let hint = client.answer().await;
            assert_eq!((hint.status, hint.header("x-hint")), (103, "1"));
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.headers.contains_key("x-hint")), (200, false));
        assert_eq!(answer.body.len(), if hinted { 5 } else { large });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_follows_an_early_answer_keeps_its_interim_response_behind_that() {
    // The first request is answered before its body is there. Its end, and the second request, come while the
    // answer is still on its way.
    let large = 12 * 1024 * 1024;
    let origin = large_or_hinted(large).await;
    let proxy = Instance::in_front_of(origin.address, "");
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send("POST /large HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbo").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    client.send("dyGET /b HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.exactly(large).await.len(), large);
    let hint = client.answer().await;
    assert_eq!((hint.status, hint.header("x-hint")), (103, "1"));
    assert_eq!(client.answer().await.body, "final");
}
