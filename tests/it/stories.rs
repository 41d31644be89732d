//! The caching RFCs as stories: what a client asks, what the origin answers, and what the client must get, written
//! from the specifications and played against a running proxy whose clock stands still until it is turned. Each
//! story is played twice, with memory alone and with Redis alone, and must come out the same.
//!
//! ```text
//! config: ttl = "60s"            settings of the route; other sections may follow
//! only: memory                   not with Redis alone
//! > GET /a | accept: text/html   a client asks (`body: text` is what it sends)
//! < 200 | etag: "a" | body: one  the origin answers; `x`: it closes the connection instead
//! ? -range | method: GET         what the origin has seen; `-` for a field that it must not see
//! = 200 | body: one | -x-a       what the client gets; `-` for a field that it must not get
//! + 30s                          time goes on; before `<`, while the origin thinks
//! ```
//!
//! * Without `<` or `x` the request must not reach the origin. Each `<` answers one more request of the proxy's.
//! * Several `>` in a row are under way together, each sent when the one before is held up at the origin, or waits
//!   for one that is; the `=` are in the same order.
//! * `@-10` as a value is the HTTP-date ten seconds before now by the proxy's clock. `{host}` and `{upstream}` are
//!   the authorities of the proxy and of the origin.
//! * `size: 2000` is a body of that many bytes; `has: text` is somewhere in the body, in whatever case. What ends
//!   in `*` is the beginning of a value.
//! * `cache-status: hit` is some text in the proxy's member of Cache-Status; beginning with `=` it is the whole
//!   field, without the tier, which is another each time.
//! * A line that begins with `|` goes on with the one before.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use asidecar::clock::{Clock, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Full;

use crate::support::{Answer, Gate, HangUp, Instance, Origin, Redis, Seen, eventually, ok, standing_clock, status};

/// Makes a test of each story.
macro_rules! stories {
    ($($(#[$meta:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$meta])*
        #[tokio::test]
        async fn $name() {
            $crate::stories::play(stringify!($name), $text).await;
        }
    )*};
}

mod freshness;
mod head;
mod ranges;
mod requests;
mod stale;
mod status;
mod storing;
mod targeted;
mod validation;
mod vary;
mod writes;

/// A line of a story: its number, what it says, its first words, and its fields.
#[derive(Clone, Debug)]
struct Line {
    number: usize,
    text: String,
    head: Vec<String>,
    fields: Vec<(String, String)>,
}

/// What the origin does with a request: answers it as this line says, or hangs up; and how long it thinks before.
#[derive(Clone)]
struct Act {
    line: Option<Line>,
    after: Duration,
}

/// A piece of a story: time goes on, or requests are answered.
enum Step {
    Turn(Duration),
    Exchange { asks: Vec<Line>, acts: Vec<Act>, seen: Vec<(usize, Line)>, gets: Vec<Line> },
}

impl Line {
    fn parse(number: usize, text: &str) -> Result<Line, String> {
        let (sign, rest) = text.split_at(1);
        let mut parts = rest.split(" | ").map(str::trim).peekable();
        let head = if sign == "?" { "" } else { parts.next().unwrap_or_default() };
        let field = |part: &str| match part.split_once(':') {
            _ if part.starts_with('-') => Ok((part.to_owned(), String::new())),
            Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
            None => Err(format!("`{part}` is no field")),
        };
        let fields = parts.filter(|p| !p.is_empty()).map(field).collect::<Result<_, _>>()?;
        let head = head.split_whitespace().map(str::to_owned).collect();
        Ok(Line { number, text: text.to_owned(), head, fields })
    }

    fn status(&self) -> u16 {
        self.head.first().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in `{}`", self.text))
    }

    /// The content that `body` or `size` stand for.
    fn body(&self) -> String {
        let of = |name| self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        of("body").or_else(|| of("size").map(|n| "x".repeat(n.parse().unwrap()))).unwrap_or_default()
    }

    /// The fields of a message, with what stands for something else put in.
    fn sent(&self, world: &World) -> Vec<(String, String)> {
        let fields = self.fields.iter().filter(|(n, _)| n != "body" && n != "size");
        fields.map(|(name, value)| (name.clone(), world.said(value))).collect()
    }
}

/// A story: its settings, whether it is played with Redis too, and its steps.
#[derive(Default)]
struct Story {
    config: String,
    memory_only: bool,
    steps: Vec<Step>,
}

fn parse(text: &str) -> Result<Story, String> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(n, l)| (n, l.trim())).filter(|(_, l)| !l.is_empty()) {
        match lines.last_mut() {
            Some((_, before)) if line.starts_with('|') => *before = format!("{before} {line}"),
            _ => lines.push((number, line.to_owned())),
        }
    }
    let Story { mut config, mut memory_only, mut steps } = Story::default();
    let mut after = Duration::ZERO;
    for (number, text) in lines {
        let error = |what: &str| format!("line {number}, `{text}`: {what}");
        if let Some(setting) = text.strip_prefix("config:") {
            if config.is_empty() && !setting.trim().starts_with('[') {
                config.push_str("[[route]]\nname = \"all\"\n");
            }
            config.push_str(&format!("{}\n", setting.trim()));
            continue;
        }
        if text == "only: memory" {
            memory_only = true;
            continue;
        }
        let line = Line::parse(number, &text).map_err(|e| error(&e))?;
        if let (">", true) = (&text[..1], !matches!(steps.last(), Some(Step::Exchange { gets, .. }) if gets.is_empty()))
        {
            steps.push(Step::Exchange { asks: Vec::new(), acts: Vec::new(), seen: Vec::new(), gets: Vec::new() });
        }
        match (&text[..1], steps.last_mut()) {
            (">", Some(Step::Exchange { asks, .. })) if line.head.len() == 2 => asks.push(line),
            ("<" | "x", Some(Step::Exchange { acts, gets, .. })) if gets.is_empty() => {
                let line = text.starts_with('<').then_some(line);
                acts.push(Act { line, after: std::mem::take(&mut after) });
            }
            ("?", Some(Step::Exchange { acts, seen, .. })) if !acts.is_empty() => seen.push((acts.len() - 1, line)),
            ("=", Some(Step::Exchange { asks, gets, .. })) if gets.len() < asks.len() => gets.push(line),
            ("+", step) => {
                let by = line.head.first().and_then(|d| seconds(d)).ok_or_else(|| error("no duration"))?;
                match step {
                    Some(Step::Exchange { gets, .. }) if gets.is_empty() => after += by,
                    _ => steps.push(Step::Turn(by)),
                }
            }
            _ => return Err(error("unexpected here")),
        }
    }
    Ok(Story { config, memory_only, steps })
}

/// `90s`, `1500ms`.
fn seconds(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

/// What a story's words may stand for.
#[derive(Clone)]
struct World {
    clock: Clock,
    host: String,
    upstream: String,
}

impl World {
    fn said(&self, value: &str) -> String {
        let date = value.strip_prefix('@').and_then(|offset| offset.parse::<i64>().ok());
        match date {
            Some(offset) => {
                let at = Timestamp(self.clock.now().0.saturating_add_signed(offset * 1000));
                httpdate::fmt_http_date(at.to_system())
            }
            None => value.replace("{host}", &self.host).replace("{upstream}", &self.upstream),
        }
    }
}

/// What the origin does next, and where requests are held up until all of a step are under way.
struct Script {
    acts: VecDeque<Act>,
    gate: Gate,
    unexpected: Vec<Seen>,
}

async fn act(script: Arc<Mutex<Script>>, world: Arc<Mutex<Option<World>>>, seen: Seen) -> Response<Full<Bytes>> {
    let gate = script.lock().unwrap().gate.clone();
    gate.pass().await;
    let world = world.lock().unwrap().clone().unwrap();
    let act = {
        let mut script = script.lock().unwrap();
        match script.acts.front().cloned() {
            // A connection that is closed may be tried once more.
            Some(act) if act.line.is_none() => act,
            Some(act) => {
                script.acts.pop_front();
                act
            }
            None => {
                script.unexpected.push(seen);
                return status(500);
            }
        }
    };
    world.clock.advance(act.after);
    let mut response = ok(act.line.as_ref().map(Line::body).unwrap_or_default());
    match act.line {
        None => _ = response.extensions_mut().insert(HangUp),
        Some(line) => {
            *response.status_mut() = status(line.status()).status();
            for (name, value) in line.sent(&world) {
                response.headers_mut().append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
        }
    }
    response
}

/// Plays a story with each tier alone, at the same time.
async fn play(name: &str, text: &str) {
    let Story { config, memory_only, steps } = parse(text).unwrap_or_else(|e| panic!("story {name}, {e}"));
    let with_memory = play_with(format!("story {name}, memory"), config.clone(), &steps, None);
    let with_redis = async {
        if memory_only {
            return;
        }
        static STORIES: AtomicU64 = AtomicU64::new(0);
        let (redis, n) = (shared_redis().await, STORIES.fetch_add(1, Ordering::Relaxed));
        let tiers = format!(
            "[store]\nmemory = \"0\"\nredis = \"{}\"\nredis_timeout = \"10s\"\nnamespace = \"story-{n}\"\n\
             [invalidation]\nchannel = \"story-{n}\"\n",
            redis.url()
        );
        play_with(format!("story {name}, Redis"), tiers + &config, &steps, Some(redis)).await;
    };
    tokio::join!(with_memory, with_redis);
}

/// One server for all stories that are being played.
async fn shared_redis() -> Arc<Redis> {
    static REDIS: tokio::sync::Mutex<Weak<Redis>> = tokio::sync::Mutex::const_new(Weak::new());
    let mut running = REDIS.lock().await;
    if let Some(redis) = running.upgrade() {
        return redis;
    }
    let redis = Arc::new(Redis::start().await);
    *running = Arc::downgrade(&redis);
    redis
}

async fn play_with(what: String, config: String, steps: &[Step], redis: Option<Arc<Redis>>) {
    let script = Arc::new(Mutex::new(Script { acts: VecDeque::new(), gate: Gate::closed(), unexpected: Vec::new() }));
    let world: Arc<Mutex<Option<World>>> = Arc::default();
    let origin = {
        let (script, world) = (script.clone(), world.clone());
        Origin::start(move |seen| act(script.clone(), world.clone(), seen)).await
    };
    let clock = standing_clock();
    let proxy = Arc::new(Instance::by_clock(clock.clone(), origin.address, &config));
    if redis.is_some() {
        proxy.redis_is_up().await;
    }
    let around = World { clock, host: proxy.server.proxy.to_string(), upstream: origin.address.to_string() };
    *world.lock().unwrap() = Some(around.clone());
    for step in steps {
        let (asks, acts, seen, gets) = match step {
            Step::Turn(by) => {
                proxy.clock.advance(*by);
                continue;
            }
            Step::Exchange { asks, acts, seen, gets } => (asks, acts, seen, gets),
        };
        let (before, gate) = (origin.calls(), Gate::closed());
        {
            let mut script = script.lock().unwrap();
            (script.acts, script.gate) = (acts.iter().cloned().collect(), gate.clone());
        }
        let mut clients = Vec::new();
        for (n, ask) in asks.iter().enumerate() {
            let (asking, ask, fields) = (proxy.clone(), ask.clone(), ask.sent(&around));
            clients.push(tokio::spawn(async move {
                let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                asking.send(ask.head[0].parse().unwrap(), &ask.head[1], &fields, &ask.body()).await
            }));
            if asks.len() > 1 {
                let under_way = || async { gate.came() + proxy.server.core.fills.waiting() > n };
                eventually(&format!("{what}, line {}: the request is under way", asks[n].number), under_way).await;
            }
        }
        gate.open(100);
        for (n, client) in clients.into_iter().enumerate() {
            let answer = client.await.unwrap_or_else(|e| panic!("{what}, line {}: {e}", asks[n].number));
            let Some(line) = gets.get(n) else { panic!("{what}, line {}: no `=`", asks[n].number) };
            if let Err(wrong) = check_answer(line, &answer, &around) {
                let seen = &origin.seen()[before..];
                panic!("{what}, line {}, `{}`: {wrong}\ngot {answer:#?}\nasked {seen:#?}", line.number, line.text);
            }
        }
        eventually("fills are over", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
        let asked = &origin.seen()[before..];
        let script = script.lock().unwrap();
        let (n, first) = (asks[0].number, &asks[0].text);
        assert!(script.unexpected.is_empty(), "{what}, line {n}, `{first}`: reached the origin: {asked:#?}");
        let all_came = asked.len() >= acts.len() && script.acts.iter().all(|act| act.line.is_none());
        assert!(all_came, "{what}, line {n}, `{first}`: only {} came to the origin", asked.len());
        for (at, line) in seen {
            if let Err(wrong) = check_seen(line, &asked[*at], &around) {
                panic!("{what}, line {}, `{}`: {wrong}\nthe origin saw {:#?}", line.number, line.text, asked[*at]);
            }
        }
    }
}

/// Checks one field of a message; `-name` must not be there.
fn check_field(headers: &HeaderMap, name: &str, want: &str) -> Result<(), String> {
    if let Some(absent) = name.strip_prefix('-') {
        return headers.get(absent).map_or(Ok(()), |value| Err(format!("there is {absent}: {value:?}")));
    }
    let got = joined(headers, name);
    if got.as_deref().is_some_and(|got| fits(got, want)) {
        Ok(())
    } else {
        Err(format!("{name} is {got:?}, not {want:?}"))
    }
}

/// Whether a value is this one, or, with a `*` at its end, begins with it.
fn fits(got: &str, want: &str) -> bool {
    want.strip_suffix('*').map_or(got == want, |beginning| got.starts_with(beginning))
}

/// All lines of a field as one (RFC 9110 section 5.3).
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn check_seen(line: &Line, seen: &Seen, world: &World) -> Result<(), String> {
    for (name, value) in line.sent(world) {
        let got = match name.as_str() {
            "method" => seen.method.as_str(),
            "target" => &seen.target,
            _ => {
                check_field(&seen.headers, &name, &value)?;
                continue;
            }
        };
        if got != value {
            return Err(format!("the {name} is {got:?}"));
        }
    }
    Ok(())
}

fn check_answer(line: &Line, answer: &Answer, world: &World) -> Result<(), String> {
    if answer.status != line.status() {
        return Err(format!("the status is {}", answer.status));
    }
    if line.fields.iter().any(|(name, _)| name == "body" || name == "size") && !fits(&answer.body, &line.body()) {
        return Err(format!("the body is {:?}", answer.body));
    }
    for (name, value) in line.sent(world) {
        if name == "has" {
            let found = answer.body.to_ascii_lowercase().contains(&value.to_ascii_lowercase());
            found.then_some(()).ok_or(format!("{value:?} is not in the body"))?;
            continue;
        }
        if name != "cache-status" {
            check_field(&answer.headers, &name, &value)?;
            continue;
        }
        let all = joined(&answer.headers, "cache-status").unwrap_or_default();
        let all = all.replace("; detail=memory", "").replace("; detail=redis", "");
        let whole = value.strip_prefix('=').map(str::trim);
        let ours = all.rsplit(", ").next().unwrap_or_default();
        if !whole.map_or_else(|| ours.contains(&value), |whole| all == whole) {
            return Err(format!("Cache-Status is {all:?}"));
        }
    }
    Ok(())
}
