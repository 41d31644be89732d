//! The command line: the real program in an environment of its own, its words and its exit statuses.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::{DEADLINE, Gate, Nobody, Origin, Redis, Wire, eventually, ok, with};

const ANY_PORT: &str = "127.0.0.1:0";

/// The program with these arguments and nothing but these variables; killed with the value.
fn program(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_asidecar"));
    command.args(args).env_clear().envs(env.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How the program ended and what it said.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

async fn ended(args: &[&str], env: &[(&str, &str)]) -> Ended {
    let output = timeout(DEADLINE, program(args, env).output()).await.expect("an end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// The program, running, with what it says as it says it.
pub struct Running {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

fn heard(from: impl AsyncRead + Unpin + Send + 'static) -> Arc<Mutex<String>> {
    let all = Arc::<Mutex<String>>::default();
    let said = all.clone();
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            said.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    all
}

impl Running {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Running {
        let mut child = program(args, env).spawn().unwrap();
        let (out, err) = (heard(child.stdout.take().unwrap()), heard(child.stderr.take().unwrap()));
        Running { child, out, err }
    }
    /// A proxy on free ports in front of this upstream, and where it and its admin listener are.
    pub async fn proxy(upstream: SocketAddr, env: &[(&str, &str)]) -> (Running, SocketAddr, SocketAddr) {
        let upstream = format!("http://{upstream}");
        let ports = [("ASIDECAR_LISTEN__PROXY", ANY_PORT), ("ASIDECAR_LISTEN__ADMIN", ANY_PORT)];
        let running = Running::start(&["run", "--upstream", &upstream], &[&ports[..], env].concat());
        running.until_logged(" admin=http://").await;
        let log = running.err.lock().unwrap().clone();
        let address = |name: &str| {
            let (_, rest) = log.split_once(&format!("{name}=http://")).unwrap_or_else(|| panic!("no {name} in {log}"));
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (proxy, admin) = (address("proxy"), address("admin"));
        (running, proxy, admin)
    }
    async fn until_logged(&self, text: &str) {
        eventually(text, || async { self.err.lock().unwrap().contains(text) }).await;
    }
    pub fn signal(&self, name: &str) {
        let id = self.child.id().expect("running").to_string();
        assert!(std::process::Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }
    async fn code(&mut self) -> i32 {
        timeout(DEADLINE, self.child.wait()).await.expect("an end").unwrap().code().expect("an exit of its own")
    }
}

/// A file in a folder that is gone with the value.
pub fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_string();
    (folder, path)
}

async fn get(at: SocketAddr, path: &str) -> crate::support::Answer {
    let mut wire = Wire::connect(at).await;
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")).await;
    wire.answer().await
}

/// A GET until the answer is from memory: so what it filled is stored.
async fn fill(at: SocketAddr, path: &str) {
    eventually("it is stored", || async { get(at, path).await.is_hit("memory") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn help_lists_the_commands_that_there_are() {
    let help = ended(&["--help"], &[]).await;
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    let (_, rest) = help.out.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> =
        rest.lines().take_while(|l| !l.is_empty()).filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(commands, ["run", "check", "purge", "demo", "help"]);
    for command in ["run", "check", "purge", "demo"] {
        let help = ended(&[command, "--help"], &[]).await;
        assert_eq!(help.code, 0);
        assert!(help.out.contains("Usage: asidecar"), "{}", help.out);
    }
    let version = ended(&["--version"], &[]).await;
    assert_eq!(version.out.trim(), format!("asidecar {}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_is_a_2_and_says_so_on_standard_error() {
    for args in [&[][..], &["serve"], &["run", "--upstraem", "x"], &["purge", "--tag"], &["demo", "--delay", "0"]] {
        let wrong = ended(args, &[]).await;
        assert_eq!((wrong.code, wrong.out.as_str()), (2, ""), "{args:?}");
        assert!(wrong.err.contains("Usage") || wrong.err.contains("error"), "{args:?}: {}", wrong.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_a_configuration_is_sound() {
    let text = "[upstream]\nurl = \"http://127.0.0.1:9000\"\n[[route]]\nname = \"user\"\nmatch = \"/users/{id}\"\n";
    let (_folder, path) = file("a.toml", text);
    let sound = ended(&["check", "--config", &path], &[]).await;
    assert_eq!((sound.code, sound.err.as_str()), (0, ""), "{sound:?}");
    assert!(sound.out.contains("2 routes (user, default)"), "{}", sound.out);
    let yaml = "upstream:\n  url: http://127.0.0.1:9000\n";
    let (_folder, path) = file("a.yaml", yaml);
    assert_eq!(ended(&["check"], &[("ASIDECAR_CONFIG", &path)]).await.code, 0);
    assert_eq!(ended(&["check", "--upstream", "http://127.0.0.1:9000"], &[]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configurations_that_are_delivered_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let all = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let files: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == "toml" || e == "yaml")).collect();
    assert!(!files.is_empty());
    for file in files {
        let checked = ended(&["check", "--config", file.to_str().unwrap()], &[]).await;
        assert_eq!(checked.code, 0, "{}: {}", file.display(), checked.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_everything_that_is_wrong_at_once_and_where() {
    let text = "[listen]\nproxi = \"x\"\n[upstream]\nurl = \"ftp://a\"\n[store]\nredis = \"http://user:hunter2@r\"\n\
                [[route]]\nname = \"a\"\nmatch = \"/x/{y}\"\n[[route]]\nname = \"b\"\nmatch = \"/x/{z}\"\n";
    let (_folder, path) = file("a.toml", text);
    for command in ["check", "run"] {
        let wrong = ended(&[command, "--config", &path], &[]).await;
        assert_eq!((wrong.code, wrong.out.as_str()), (2, ""));
        for told in [
            format!("{path}:2:1: unknown key `proxi`"),
            "did you mean `proxy`?".into(),
            format!("{path}:4:7: `ftp` is no scheme"),
            format!("{path}:6:9: `http` is no scheme of Redis"),
            format!("{path}:12:9: the routes `a` and `b` both match"),
        ] {
            assert!(wrong.err.contains(&told), "{told} is not in\n{}", wrong.err);
        }
        assert!(!wrong.err.contains("hunter2"), "a secret is not shown: {}", wrong.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_the_environment_or_missing_is_told_by_its_name() {
    let upstream = ("ASIDECAR_UPSTREAM__URL", "http://a");
    for (env, told) in [
        (vec![], "upstream.url is missing"),
        (vec![upstream, ("ASIDECAR_LISTEN__WORKERS", "many")], "ASIDECAR_LISTEN__WORKERS"),
        (vec![upstream, ("ASIDECAR_LISTEN__WORKRES", "1")], "ASIDECAR_LISTEN__WORKRES"),
        (vec![upstream, ("ASIDECAR_CONFIG", "/nowhere/a.toml")], "/nowhere/a.toml: cannot be read"),
    ] {
        let wrong = ended(&["check"], &env).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
        assert!(wrong.err.contains(told), "{told} is not in\n{}", wrong.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_a_1_and_one_line_that_says_what_to_do() {
    let taken = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (proxy, admin, name) in [(&*taken, ANY_PORT, "listen.proxy"), (ANY_PORT, &*taken, "listen.admin")] {
        let env = [("ASIDECAR_LISTEN__PROXY", proxy), ("ASIDECAR_LISTEN__ADMIN", admin)];
        let failed = ended(&["run", "--upstream", "http://127.0.0.1:1"], &env).await;
        assert_eq!((failed.code, failed.out.as_str()), (1, ""));
        assert_eq!(failed.err.lines().count(), 1, "{}", failed.err);
        for told in [name, &taken, "choose another port"] {
            assert!(failed.err.contains(told), "{told} is not in {}", failed.err);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_url_that_can_not_be_used_is_a_2_before_any_port_opens() {
    let taken = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for url in ["127.0.0.1:6379", "http://127.0.0.1:6379", "redis://", "redis://127.0.0.1:notaport"] {
        let env = [("ASIDECAR_STORE__REDIS", url), ("ASIDECAR_LISTEN__PROXY", &taken)];
        let wrong = ended(&["run", "--upstream", "http://127.0.0.1:1"], &env).await;
        assert_eq!(wrong.code, 2, "{url}: {}", wrong.err);
        assert!(wrong.err.contains("ASIDECAR_STORE__REDIS") && wrong.err.contains("redis://"), "{}", wrong.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_upstream_and_without_redis_and_says_so() {
    let (no_upstream, no_redis) = (Nobody::new(), Nobody::new());
    let redis = format!("redis://{}", no_redis.address);
    let (running, proxy, admin) = Running::proxy(no_upstream.address, &[("ASIDECAR_STORE__REDIS", &redis)]).await;
    assert_eq!(get(proxy, "/a").await.status, 502);
    let ready = get(admin, "/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(
        ready.body.contains("\"upstream\":\"down\"") && ready.body.contains("\"redis\":\"down\""),
        "{}",
        ready.body
    );
    running.until_logged("the upstream can't be reached yet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_finish_what_is_in_flight_and_end_with_0() {
    for signal in ["TERM", "INT"] {
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
        let (mut running, proxy, _) = Running::proxy(origin.address, &[]).await;
        let mut client = Wire::connect(proxy).await;
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        gate.wait_for(1).await;
        running.signal(signal);
        eventually("connections are refused", || async { TcpStream::connect(proxy).await.is_err() }).await;
        gate.open(1);
        assert_eq!(client.answer().await.body, "finished");
        assert_eq!(running.code().await, 0, "{signal}");
        assert_eq!(*running.out.lock().unwrap(), "", "the log goes to standard error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            ok("never")
        }
    })
    .await;
    let (mut running, proxy, _) = Running::proxy(origin.address, &[]).await;
    let mut client = Wire::connect(proxy).await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    gate.wait_for(1).await;
    running.signal("TERM");
    running.until_logged("draining").await;
    // Impatient people press it more than twice.
    let code = loop {
        running.signal("TERM");
        if let Ok(code) = timeout(Duration::from_millis(20), running.code()).await {
            break code;
        }
    };
    assert_eq!(code, 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_without_anything_to_purge_is_a_2() {
    let wrong = ended(&["purge"], &[]).await;
    assert_eq!((wrong.code, wrong.out.as_str()), (2, ""));
    assert!(wrong.err.contains("nothing to purge") && wrong.err.contains("--all"), "{}", wrong.err);
    assert_eq!(ended(&["purge", "--path", "no-slash"], &[]).await.code, 2);
    assert_eq!(ended(&["purge", "--soft"], &[]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_without_an_instance_or_a_redis_is_a_1_and_says_what_is_missing() {
    let nobody = Nobody::new();
    let address = nobody.address.to_string();
    let failed = ended(&["purge", "--all", "--admin", &address], &[]).await;
    assert_eq!((failed.code, failed.err.lines().count()), (1, 1), "{failed:?}");
    assert!(failed.err.contains(&address) && failed.err.contains("is an instance running there?"), "{}", failed.err);
    let failed = ended(&["purge", "--all", "--redis", &format!("redis://{address}")], &[]).await;
    assert_eq!((failed.code, failed.err.lines().count()), (1, 1), "{failed:?}");
    assert!(failed.err.contains(&format!("Redis at {address} can't be reached")), "{}", failed.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_works_through_the_admin_api() {
    let origin = Origin::counting("max-age=60").await;
    let (_running, proxy, admin) = Running::proxy(origin.address, &[]).await;
    let admin = admin.to_string();
    for what in [&["--path", "/a"][..], &["--prefix", "/"], &["--key", &format!("//{proxy}/a")], &["--all"]] {
        fill(proxy, "/a").await;
        let purged = ended(&[&["purge", "--admin", &admin], what].concat(), &[]).await;
        assert_eq!((purged.code, purged.err.as_str()), (0, ""), "{what:?}: {purged:?}");
        assert!(purged.out.starts_with("purged"), "{}", purged.out);
        assert!(!get(proxy, "/a").await.is_hit("memory"), "{what:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_sends_the_token_and_says_when_one_is_wanted() {
    let origin = Origin::counting("").await;
    let token = ("ASIDECAR_ADMIN__TOKEN", "0123456789abcdef");
    let (_running, _, admin) = Running::proxy(origin.address, &[token]).await;
    let args = ["purge", "--all", "--admin", &admin.to_string()];
    let refused = ended(&args, &[]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("--token"), "{}", refused.err);
    assert_eq!(ended(&args, &[token]).await.code, 0);
    assert_eq!(ended(&[&args[..], &["--token", token.1]].concat(), &[]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_works_straight_into_the_log_that_instances_follow() {
    let redis = Redis::start().await;
    let origin =
        Origin::start(|_| async { with(ok("x"), &[("cache-control", "max-age=60"), ("surrogate-key", "user:1")]) })
            .await;
    let (_running, proxy, admin) = Running::proxy(origin.address, &[("ASIDECAR_STORE__REDIS", &redis.url())]).await;
    eventually("Redis is up", || async { get(admin, "/readyz").await.body.contains("\"redis\":\"up\"") }).await;
    fill(proxy, "/a").await;
    let calls = origin.calls();
    let purged = ended(&["purge", "--tag", "user:1", "--redis", &redis.url()], &[]).await;
    assert_eq!((purged.code, purged.err.as_str()), (0, ""), "{purged:?}");
    eventually("the instance has heard of it", || async {
        get(proxy, "/a").await;
        origin.calls() > calls
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_shows_cold_warm_and_fresh_after_an_update() {
    let args = ["demo", "--once", "--listen", ANY_PORT, "--admin", ANY_PORT];
    let shown = ended(&args, &[]).await;
    assert_eq!((shown.code, shown.err.as_str()), (0, ""), "{shown:?}");
    let line = |n: &str| shown.out.lines().find(|l| l.starts_with(n)).unwrap_or_else(|| panic!("{n} {}", shown.out));
    assert!(line("1.").contains("fwd=uri-miss"), "{}", shown.out);
    assert!(line("2.").contains("; hit;") && line("2.").contains("detail=memory"), "{}", shown.out);
    assert!(line("4.").contains("fwd=miss"), "{}", shown.out);
    assert!(line("6.").contains("Renamed Just Now") && line("6.").contains("fwd=miss"), "{}", shown.out);
    let (before, _) = shown.out.split_once(" times faster").expect("the improvement");
    let times: f64 = before.split_whitespace().next_back().unwrap().parse().unwrap();
    assert!(times >= 100.0, "only {times} times faster: {}", shown.out);
    assert!(shown.out.contains("% from the cache"), "{}", shown.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_goes_on_serving_until_it_is_told_to_end() {
    let mut running = Running::start(&["demo", "--delay", "1", "--listen", ANY_PORT, "--admin", ANY_PORT], &[]);
    eventually("the hints", || async { running.out.lock().unwrap().contains("Ctrl-C ends it") }).await;
    let said = running.out.lock().unwrap().clone();
    let (_, rest) = said.split_once("curl -i http://").unwrap();
    let proxy: SocketAddr = rest.split('/').next().unwrap().parse().unwrap();
    assert!(get(proxy, "/users/7").await.is_hit("memory"));
    running.signal("INT");
    assert_eq!(running.code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_check_is_a_0_for_an_instance_that_runs_and_a_1_for_none() {
    let origin = Origin::counting("").await;
    let (running, _, admin) = Running::proxy(origin.address, &[]).await;
    let admin = admin.to_string();
    let healthy = ended(&["healthcheck", "--admin", &admin], &[]).await;
    assert_eq!((healthy.code, healthy.out.as_str(), healthy.err.as_str()), (0, "", ""));
    let by_config = [("ASIDECAR_LISTEN__ADMIN", &*admin), ("ASIDECAR_UPSTREAM__URL", "http://a")];
    assert_eq!(ended(&["healthcheck"], &by_config).await.code, 0);
    drop(running);
    eventually("it is gone", || async { ended(&["healthcheck", "--admin", &admin], &[]).await.code == 1 }).await;
}
