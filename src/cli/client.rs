//! A small HTTP client for talking to an instance: one request or a few over one connection, with a deadline.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// An answer, and what it took.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) took: Duration,
}

/// A connection that is kept for several requests.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    patience: Duration,
}

impl Connection {
    /// Connects; each request may take `patience`.
    pub(super) async fn open(address: SocketAddr, patience: Duration) -> Result<Connection, String> {
        let connect = async {
            let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
            let _ = stream.set_nodelay(true);
            handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())
        };
        let (sender, connection) = match timeout(patience, connect).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(e)) => return Err(format!("{address} can't be reached ({e}): is an instance running there?")),
            Err(_) => return Err(format!("{address} does not answer")),
        };
        tokio::spawn(connection);
        Ok(Connection { sender, address, patience })
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|e| format!("{path:?} can't be asked for: {e}"))?;
        let began = Instant::now();
        let exchange = async {
            self.sender.ready().await.map_err(|e| e.to_string())?;
            let (head, body) = self.sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok::<_, String>(Answer { status: head.status.as_u16(), headers: head.headers, body, took: began.elapsed() })
        };
        match timeout(self.patience, exchange).await {
            Ok(answer) => answer.map_err(|e| format!("{} broke off: {e}", self.address)),
            Err(_) => Err(format!("{} did not answer within {:?}", self.address, self.patience)),
        }
    }
}

/// One GET.
pub(super) async fn get(address: SocketAddr, path: &str, patience: Duration) -> Result<Answer, String> {
    Connection::open(address, patience).await?.send(Method::GET, path, None, Bytes::new()).await
}

/// Runs a future to its end on a runtime of its own.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("a runtime can't be started: {e}"))?.block_on(future)
}
