//! The yardstick and the origin of `benches/compare.py`: a bare hyper server on one thread that answers
//! `GET /b/SIZE/ANYTHING` with SIZE bytes, cacheable for an hour, and does nothing else.
//!
//!   bare 127.0.0.1:PORT

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

const LARGEST: usize = 16 << 20;

fn answer(request: &Request<Incoming>, bodies: &RefCell<HashMap<usize, Bytes>>) -> Response<Full<Bytes>> {
    let mut parts = request.uri().path().split('/').skip(1);
    let size = match (parts.next(), parts.next().map(str::parse::<usize>)) {
        (Some("b"), Some(Ok(size))) if size <= LARGEST => size,
        _ => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    let body = bodies.borrow_mut().entry(size).or_insert_with(|| Bytes::from(vec![b'x'; size])).clone();
    let mut response = Response::new(Full::new(body));
    for (name, value) in [("content-type", "application/json"), ("cache-control", "max-age=3600"), ("etag", "\"v1\"")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        let bodies: Rc<RefCell<HashMap<usize, Bytes>>> = Rc::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let bodies = bodies.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| {
                    let response = answer(&request, &bodies);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection =
                    http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                let _ = connection.await;
            });
        }
    })
}
