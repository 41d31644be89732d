//! A small HTTP API that is slow on purpose, so that what a cache does can be seen: `/users`, `/products`, `/search` and
//! `/calls`, which counts how often the others were asked.
//!
//! Three things hold, and tests of caches rely on them. A read takes its snapshot *before* it waits, as a slow query
//! does, so a write that comes during the wait is not in its answer. A write is committed before it waits, so one whose
//! client gives up has happened all the same. Every buffer and every wait has a bound, except a client that reads slowly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

const CONNECTIONS: usize = 1024;
/// Also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_LIMIT: usize = 16 * 1024;
const BODY_LIMIT: usize = 64 * 1024;
const ITEM_LIMIT: usize = 1000;
const PAGE_LIMIT: usize = 100;
const PATH_LIMIT: usize = 1000;
const PATH_LENGTH_LIMIT: usize = 256;

/// The API's data, its counters, and how slow it is.
pub(crate) struct Api {
    delay: Duration,
    calls: AtomicU64,
    by_path: Mutex<BTreeMap<String, u64>>,
    data: Mutex<Data>,
}

impl Api {
    /// An API with 100 users and 50 products, the same ones every time. A read takes `delay`, a search twice that, a
    /// write a tenth of it; `/calls` and what can be refused without looking anything up take no time.
    pub(crate) fn new(delay: Duration) -> Api {
        Api {
            delay,
            calls: AtomicU64::new(0),
            by_path: Mutex::new(BTreeMap::new()),
            data: Mutex::new(Data { users: Collection::seed(users()), products: Collection::seed(products()) }),
        }
    }

    /// How many requests came in so far, those for `/calls` aside.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Serves HTTP/1.1 on `listener` until `stop` is done; requests in flight then have a few seconds to end.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            // The permit comes before `accept`: beyond the limit, connections wait in the kernel's backlog.
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let connection = Arc::clone(&self).connection(stream, stopped.clone());
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    // Out of file descriptors, most likely: some will be free again.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
        }
        drop((listener, stopping));
        // What has not ended by then is aborted with the set.
        let _ = tokio::time::timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, mut stopped: watch::Receiver<()>) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request: Request<Incoming>| {
            let api = Arc::clone(&self);
            async move { Ok::<_, Infallible>(api.respond(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // How a connection ends, well or badly, is of no interest here.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn respond<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or(""));
        let target = Target::of(path);
        if target != Some(Target::Calls) {
            self.count(path);
        }
        let answered = match target {
            None => Err(Problem::new(StatusCode::NOT_FOUND, "There is nothing here.")),
            Some(target) => self.answer(target, &head.method, query, &head.headers, body).await,
        };
        answered.unwrap_or_else(Problem::into_response)
    }

    async fn answer<B>(
        &self,
        target: Target,
        method: &Method,
        query: &str,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Response<Full<Bytes>>, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if !target.methods().contains(method) {
            return Err(Problem::method(target));
        }
        if target == Target::Calls {
            return Ok(response(StatusCode::OK, &self.report(), HeaderValue::from_static("no-store")));
        }
        if matches!(*method, Method::GET | Method::HEAD) {
            let snapshot = self.data().read(target, query);
            // An answer that took no look at the data takes no time either.
            if !matches!(&snapshot, Err(problem) if problem.status == StatusCode::BAD_REQUEST) {
                let factor = if target == Target::Search { 2 } else { 1 };
                tokio::time::sleep(self.delay.saturating_mul(factor)).await;
            }
            let fresh = HeaderValue::from_static("max-age=60");
            return Ok(not_modified(response(StatusCode::OK, &snapshot?, fresh), headers));
        }
        let fields = if *method == Method::DELETE { Map::new() } else { object(body).await? };
        let written = self.data().write(target, method, fields)?;
        tokio::time::sleep(self.delay / 10).await;
        Ok(written)
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, path: &str) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_path.contains_key(path) || by_path.len() < PATH_LIMIT && path.len() <= PATH_LENGTH_LIMIT;
        *by_path.entry(if known { path } else { "other" }.to_owned()).or_default() += 1;
    }

    fn report(&self) -> Value {
        let by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        json!({ "calls": self.calls(), "by_path": *by_path })
    }
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    List(Kind),
    Item(Kind, u64),
    Search,
    Calls,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Users,
    Products,
}

impl Target {
    fn of(path: &str) -> Option<Target> {
        match path {
            "/search" => return Some(Target::Search),
            "/calls" => return Some(Target::Calls),
            _ => {}
        }
        let (kind, rest) = [Kind::Users, Kind::Products]
            .into_iter()
            .find_map(|kind| Some((kind, path.strip_prefix('/')?.strip_prefix(kind.as_str())?)))?;
        if rest.is_empty() {
            return Some(Target::List(kind));
        }
        let digits = rest.strip_prefix('/')?;
        let id: u64 = digits.parse().ok()?;
        // One spelling for each item: "01" and "+1" are not "1".
        (id.to_string() == digits).then_some(Target::Item(kind, id))
    }

    fn methods(self) -> &'static [Method] {
        match self {
            Target::List(_) => &[Method::GET, Method::HEAD, Method::POST],
            Target::Item(..) => &[Method::GET, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE],
            Target::Search | Target::Calls => &[Method::GET, Method::HEAD],
        }
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Users => "users",
            Kind::Products => "products",
        }
    }
}

struct Data {
    users: Collection,
    products: Collection,
}

struct Collection {
    next: u64,
    items: BTreeMap<u64, Map<String, Value>>,
}

impl Data {
    fn collection(&mut self, kind: Kind) -> &mut Collection {
        match kind {
            Kind::Users => &mut self.users,
            Kind::Products => &mut self.products,
        }
    }

    fn read(&mut self, target: Target, query: &str) -> Result<Value, Problem> {
        match target {
            Target::List(kind) => {
                let (offset, limit) = (number(query, "offset", 0)?, number(query, "limit", PAGE_LIMIT)?);
                let items = &self.collection(kind).items;
                let page: Vec<_> = items.values().skip(offset).take(limit.min(PAGE_LIMIT)).collect();
                Ok(json!({ kind.as_str(): page, "total": items.len() }))
            }
            Target::Item(kind, id) => {
                let item = self.collection(kind).items.get(&id).ok_or_else(|| Problem::missing(kind, id))?;
                Ok(Value::Object(item.clone()))
            }
            Target::Search => {
                let wanted = parameter(query, "q").filter(|text| !text.is_empty());
                let wanted = wanted.ok_or_else(|| Problem::bad("Say what to search for: /search?q=lamp"))?;
                let lower = wanted.to_lowercase();
                let matches = |item: &&Map<String, Value>| name(item).to_lowercase().contains(&lower);
                let found: Vec<_> = self.products.items.values().filter(matches).take(PAGE_LIMIT).collect();
                Ok(json!({ "q": wanted, "products": found }))
            }
            Target::Calls => Err(Problem::new(StatusCode::NOT_FOUND, "There is nothing here.")),
        }
    }

    fn write(
        &mut self,
        target: Target,
        method: &Method,
        fields: Map<String, Value>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let no_store = HeaderValue::from_static("no-store");
        match target {
            Target::List(kind) => {
                let (id, item) = self.collection(kind).create(kind, fields)?;
                let mut created = response(StatusCode::CREATED, &Value::Object(item), no_store);
                if let Ok(location) = HeaderValue::try_from(format!("/{}/{id}", kind.as_str())) {
                    created.headers_mut().insert(LOCATION, location);
                }
                Ok(created)
            }
            Target::Item(kind, id) if *method == Method::DELETE => {
                let removed = self.collection(kind).items.remove(&id);
                removed.ok_or_else(|| Problem::missing(kind, id))?;
                let mut deleted = Response::new(Full::default());
                *deleted.status_mut() = StatusCode::NO_CONTENT;
                Ok(deleted)
            }
            Target::Item(kind, id) => {
                let item = self.collection(kind).change(kind, id, fields, *method == Method::PATCH)?;
                Ok(response(StatusCode::OK, &Value::Object(item), no_store))
            }
            Target::Search | Target::Calls => Err(Problem::method(target)),
        }
    }
}

impl Collection {
    fn seed(items: Vec<Value>) -> Collection {
        let mut collection = Collection { next: 1, items: BTreeMap::new() };
        for item in items {
            if let Value::Object(fields) = item {
                collection.add(fields);
            }
        }
        collection
    }

    fn add(&mut self, mut fields: Map<String, Value>) -> (u64, Map<String, Value>) {
        let id = self.next;
        self.next += 1;
        fields.insert("id".to_owned(), json!(id));
        self.items.insert(id, fields.clone());
        (id, fields)
    }

    fn create(&mut self, kind: Kind, fields: Map<String, Value>) -> Result<(u64, Map<String, Value>), Problem> {
        validate(kind, &fields)?;
        if self.items.len() >= ITEM_LIMIT {
            let detail = format!("There are {ITEM_LIMIT} {} already: delete some.", kind.as_str());
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        Ok(self.add(fields))
    }

    /// Replaces the item, or merges the fields into it as RFC 7396 has it for the top level: `null` removes a field.
    fn change(
        &mut self,
        kind: Kind,
        id: u64,
        fields: Map<String, Value>,
        merge: bool,
    ) -> Result<Map<String, Value>, Problem> {
        let item = self.items.get_mut(&id).ok_or_else(|| Problem::missing(kind, id))?;
        let mut changed = if merge { item.clone() } else { Map::new() };
        changed.extend(fields);
        changed.retain(|_, value| !value.is_null());
        changed.insert("id".to_owned(), json!(id));
        validate(kind, &changed)?;
        // Merging can grow an item beyond what one request may carry.
        if Value::Object(changed.clone()).to_string().len() > BODY_LIMIT {
            return Err(Problem::too_large());
        }
        item.clone_from(&changed);
        Ok(changed)
    }
}

fn name(item: &Map<String, Value>) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or("")
}

fn validate(kind: Kind, fields: &Map<String, Value>) -> Result<(), Problem> {
    if name(fields).trim().is_empty() {
        return Err(Problem::bad("The field \"name\" must be a text that is not empty."));
    }
    if kind == Kind::Products {
        if fields.get("price").is_some_and(|price| price.as_f64().is_none_or(|price| price < 0.0)) {
            return Err(Problem::bad("The field \"price\" must be a number, 0 or more."));
        }
        if fields.get("stock").is_some_and(|stock| stock.as_u64().is_none()) {
            return Err(Problem::bad("The field \"stock\" must be a whole number, 0 or more."));
        }
    }
    Ok(())
}

/// Reads a request's body, which must be a JSON object.
async fn object<B>(body: B) -> Result<Map<String, Value>, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // Said beforehand, it need not be read first.
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(Problem::too_large());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await;
    let bytes = match collected {
        Err(_) => {
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive."));
        }
        Ok(Err(cause)) if cause.is::<LengthLimitError>() => return Err(Problem::too_large()),
        Ok(Err(_)) => return Err(Problem::bad("The body ended early.")),
        Ok(Ok(body)) => body.to_bytes(),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Problem::bad("The body must be a JSON object.")),
        Err(cause) => Err(Problem::bad(format!("The body is not JSON: {cause}."))),
    }
}

/// The value of a query parameter, decoded; of several, the first.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| decode(key) == name).map(|(_, value)| decode(value))
}

fn number(query: &str, name: &str, default: usize) -> Result<usize, Problem> {
    match parameter(query, name) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| Problem::bad(format!("The parameter \"{name}\" must be a whole number.")))
        }
    }
}

/// Decodes `application/x-www-form-urlencoded`; what is no valid escape stands for itself.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => decoded.push(*first),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn response(status: StatusCode, content: &Value, cache_control: HeaderValue) -> Response<Full<Bytes>> {
    let body = content.to_string();
    let tag = entity_tag(body.as_bytes());
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, cache_control);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// A strong entity tag: equal bytes have equal tags, other bytes other ones.
fn entity_tag(body: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(body);
    format!("\"{:016x}\"", hasher.finish())
}

/// Turns a 200 into a 304 if the client has it already (RFC 9110, section 13.1.2: the comparison is the weak one).
fn not_modified(response: Response<Full<Bytes>>, request: &HeaderMap) -> Response<Full<Bytes>> {
    let current = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or("");
    let known = request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(',').map(str::trim))
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == current);
    if !known {
        return response;
    }
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    head.headers.remove(CONTENT_TYPE);
    Response::from_parts(head, Full::default())
}

/// An error as RFC 9457 writes it.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
    allow: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), allow: None }
    }

    fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    fn too_large() -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "64 KiB is the most that an item may have.")
    }

    fn missing(kind: Kind, id: u64) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, format!("There is no {id} among the {}.", kind.as_str()))
    }

    fn method(target: Target) -> Problem {
        let allow = target.methods().iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("What can be done here: {allow}.");
        Problem { allow: Some(allow), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let content = json!({ "status": self.status.as_u16(), "title": title, "detail": self.detail });
        let mut response = Response::new(Full::from(content.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

#[rustfmt::skip]
const GIVEN: [&str; 20] = [
    "Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Femi", "Greta", "Hassan", "Ines", "Jonas", "Keiko", "Liam", "Mei",
    "Nadia", "Omar", "Priya", "Quentin", "Rosa", "Sven", "Tala",
];
#[rustfmt::skip]
const FAMILY: [&str; 25] = [
    "Adeyemi", "Bauer", "Costa", "Dubois", "Eriksen", "Ferrari", "Garcia", "Haddad", "Ivanova", "Jansen", "Kaya",
    "Lindholm", "Moreau", "Nakamura", "Okafor", "Patel", "Quinn", "Rossi", "Schmidt", "Tanaka", "Ueda", "Vargas",
    "Weber", "Yilmaz", "Zhang",
];
#[rustfmt::skip]
const CITIES: [&str; 12] = [
    "Lisbon", "Oslo", "Lagos", "Kyoto", "Toronto", "Milan", "Istanbul", "Lima", "Berlin", "Pune", "Nairobi", "Lyon",
];
const MATERIALS: [&str; 5] = ["Oak", "Linen", "Steel", "Ceramic", "Walnut"];
#[rustfmt::skip]
const THINGS: [&str; 10] = [
    "Desk", "Lamp", "Bookshelf", "Chair", "Clock", "Bowl", "Planter", "Mirror", "Side Table", "Coat Rack",
];

/// 100 people with as many different names: the lengths of the lists and the step of 7 see to that.
fn users() -> Vec<Value> {
    (0..100)
        .map(|i| {
            let (given, family) = (GIVEN[i % GIVEN.len()], FAMILY[i * 7 % FAMILY.len()]);
            let email = format!("{given}.{family}@example.com").to_lowercase();
            json!({ "name": format!("{given} {family}"), "email": email, "city": CITIES[i * 5 % CITIES.len()] })
        })
        .collect()
}

/// 50 products: each thing in each material.
fn products() -> Vec<Value> {
    (0..50_u32)
        .map(|i| {
            let (material, thing) = (MATERIALS[i as usize / THINGS.len()], THINGS[i as usize % THINGS.len()]);
            let cents = 1_495 + i * 7_919 % 24_000 / 500 * 500;
            json!({ "name": format!("{material} {thing}"), "price": f64::from(cents) / 100.0, "stock": i * 37 % 120 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const DELAY: Duration = Duration::from_millis(60);

    async fn ask(api: &Api, method: &str, uri: &str, body: &str) -> (StatusCode, HeaderMap, Value) {
        let request = Request::builder().method(method).uri(uri).body(Full::from(body.to_owned())).unwrap();
        unpack(api.respond(request).await).await
    }

    async fn unpack(response: Response<Full<Bytes>>) -> (StatusCode, HeaderMap, Value) {
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn names_are_many_and_all_different() {
        let api = Api::new(Duration::ZERO);
        for (kind, count) in [("users", 100), ("products", 50)] {
            let (status, headers, list) = ask(&api, "GET", &format!("/{kind}"), "").await;
            assert_eq!((status, &list["total"]), (StatusCode::OK, &json!(count)));
            assert_eq!(headers[CACHE_CONTROL], "max-age=60");
            let names: std::collections::BTreeSet<_> =
                list[kind].as_array().unwrap().iter().map(|item| item["name"].to_string()).collect();
            assert_eq!(names.len(), count);
        }
        let (.., page) = ask(&api, "GET", "/users?limit=2&offset=98", "").await;
        assert_eq!((&page["users"][1]["id"], page["users"].as_array().unwrap().len()), (&json!(100), 2));
    }

    #[tokio::test]
    async fn a_read_answers_what_held_before_its_wait() {
        let api = Api::new(DELAY);
        let began = Instant::now();
        let (read, _) =
            tokio::join!(ask(&api, "GET", "/users/1", ""), ask(&api, "PATCH", "/users/1", r#"{"name":"B"}"#));
        assert!(began.elapsed() >= DELAY);
        assert_eq!(read.2["name"], "Ada Adeyemi");
        assert_eq!(ask(&api, "GET", "/users/1", "").await.2["name"], "B");
    }

    #[tokio::test]
    async fn a_conditional_request_gets_a_304_only_while_nothing_changed() {
        let api = Api::new(DELAY);
        let (_, headers, _) = ask(&api, "GET", "/products/3", "").await;
        let conditional = || {
            let tags = format!("\"x\", W/{}", headers[ETAG].to_str().unwrap());
            Request::get("/products/3").header(IF_NONE_MATCH, tags).body(Full::<Bytes>::default()).unwrap()
        };
        let began = Instant::now();
        let (status, again, content) = unpack(api.respond(conditional()).await).await;
        assert!(began.elapsed() >= DELAY);
        assert_eq!((status, content, &again[ETAG]), (StatusCode::NOT_MODIFIED, Value::Null, &headers[ETAG]));
        ask(&api, "PATCH", "/products/3", r#"{"stock":1}"#).await;
        assert_eq!(api.respond(conditional()).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn an_item_is_created_replaced_changed_and_deleted() {
        let api = Api::new(Duration::ZERO);
        let (status, headers, _) = ask(&api, "POST", "/users", r#"{"name":"New","city":"Oslo","id":5}"#).await;
        assert_eq!((status, &headers[LOCATION]), (StatusCode::CREATED, &HeaderValue::from_static("/users/101")));
        let (.., changed) = ask(&api, "PATCH", "/users/101", r#"{"city":null,"email":"n@example.com"}"#).await;
        assert_eq!(changed, json!({ "id": 101, "name": "New", "email": "n@example.com" }));
        let (.., replaced) = ask(&api, "PUT", "/users/101", r#"{"name":"Newer"}"#).await;
        assert_eq!(replaced, json!({ "id": 101, "name": "Newer" }));
        assert_eq!(ask(&api, "DELETE", "/users/101", "").await.0, StatusCode::NO_CONTENT);
        assert_eq!(ask(&api, "GET", "/users/101", "").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_search_looks_at_names_and_decodes_its_query() {
        let api = Api::new(DELAY);
        let began = Instant::now();
        let (.., found) = ask(&api, "GET", "/search?q=oak+SIDE%20t", "").await;
        assert!(began.elapsed() >= DELAY * 2);
        assert_eq!(found["products"][0]["name"], "Oak Side Table");
        assert_eq!(found["products"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn errors_are_problems() {
        let api = Api::new(Duration::ZERO);
        let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(BODY_LIMIT));
        for (method, uri, body, status) in [
            ("POST", "/users", "{", 400),
            ("POST", "/users", "[]", 400),
            ("PUT", "/products/1", r#"{"name":"x","price":-1}"#, 400),
            ("GET", "/search", "", 400),
            ("GET", "/users?limit=x", "", 400),
            ("GET", "/nowhere", "", 404),
            ("GET", "/users/01", "", 404),
            ("GET", "/users/+1", "", 404),
            ("DELETE", "/users/999", "", 404),
            ("DELETE", "/users", "", 405),
            ("POST", "/users", &large, 413),
        ] {
            let (answered, headers, problem) = ask(&api, method, uri, body).await;
            assert_eq!((answered.as_u16(), &problem["status"]), (status, &json!(status)), "{method} {uri}");
            assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
            assert_eq!(headers.get(ALLOW).is_some(), status == 405);
        }
    }

    #[tokio::test]
    async fn calls_are_counted_apart_from_those_that_ask_for_the_count() {
        let api = Api::new(Duration::ZERO);
        for uri in ["/users/1", "/users/1?a=b", "/products", "/calls"] {
            ask(&api, "GET", uri, "").await;
        }
        let (_, headers, report) = ask(&api, "GET", "/calls", "").await;
        assert_eq!(report, json!({ "calls": 3, "by_path": { "/products": 1, "/users/1": 2 } }));
        assert_eq!(headers[CACHE_CONTROL], "no-store");
    }

    #[tokio::test]
    async fn it_serves_head_over_the_network_and_stops_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let api = Arc::new(Api::new(DELAY));
        let server = tokio::spawn(Arc::clone(&api).serve(listener, async { drop(stopped.await) }));

        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"HEAD /users/1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let asked = async {
            while api.calls() == 0 {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
        // The request in flight is still answered, then the connection is closed.
        stop.send(()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("content-length: ") && !answer.contains("content-length: 0"), "{answer}");
        tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    }
}
