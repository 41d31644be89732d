"""The servers that are compared: how each is configured, started, accounted for, and stopped.

Each peer has what its own manual recommends for small hits from memory: no access log, as many threads as it has
processors (one), a store that holds everything, one fetch for many clients where it can do that.
"""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
TICK = os.sysconf("SC_CLK_TCK")
# The peer, its program, and what prints its version.
PEERS = {
    "nginx": ("nginx", ["-v"]),
    "haproxy": ("haproxy", ["-v"]),
    "varnish": ("varnishd", ["-V"]),
    "trafficserver": ("traffic_server", ["-V"]),
    "squid": ("squid", ["-v"]),
}
# As it is shipped, and as cargo alone builds it.
SHIPPED, PLAIN = RELEASE.parent / "pgo/release/asidecar", RELEASE / "asidecar"
CONNECTIONS = 12_000  # how many each is configured for

NGINX = """
{user} worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_rlimit_nofile {files};
events {{ worker_connections {connections}; multi_accept on; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;
  open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3; uwsgi_temp_path {dir}/4;
  scgi_temp_path {dir}/5;
  proxy_cache_path {dir}/cache levels=1:2 keys_zone=zone:512m max_size=8g inactive=1d use_temp_path=off;
  upstream origin {{
    server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h;
  }}
  proxy_http_version 1.1; proxy_set_header Connection "";
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://origin; proxy_cache zone; proxy_cache_valid 200 1h; proxy_cache_lock on;
      proxy_cache_lock_timeout 30s; proxy_cache_lock_age 30s;
    }}
    location ~ ^/[us]/ {{
      proxy_pass http://origin; proxy_buffers 16 64k; proxy_max_temp_file_size 0;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  no strict-limits
  maxconn {connections}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout http-keep-alive 1h
  timeout server 60s
cache store
  total-max-size 1024
  max-object-size 4000000
  max-age 3600
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  http-request cache-use store
  http-response cache-store store
  default_backend origin
backend origin
  http-reuse always
  server origin 127.0.0.1:{origin}
"""
TRAFFICSERVER = {
    "records.config": """
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.accept_threads INT 0
CONFIG proxy.config.task_threads INT 1
CONFIG proxy.config.cache.threads_per_disk INT 1
CONFIG proxy.config.cache.ram_cache.size INT 4G
CONFIG proxy.config.cache.ram_cache_cutoff INT 4M
CONFIG proxy.config.cache.ram_cache.use_seen_filter INT 0
CONFIG proxy.config.http.cache.open_read_retry_time INT 10
CONFIG proxy.config.http.cache.max_open_read_retries INT 100
CONFIG proxy.config.http.cache.open_write_fail_action INT 5
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 3600
CONFIG proxy.config.net.connections_throttle INT 30000
CONFIG proxy.config.net.default_inactivity_timeout INT 3600
CONFIG proxy.config.admin.user_id STRING #-1
""",
    "remap.config": "map / http://127.0.0.1:{origin}/\n",
    "storage.config": "{dir}/cache 4G\n",
    "ip_allow.yaml": "ip_allow: [{{apply: in, ip_addrs: 0/0, action: allow, methods: ALL}}]\n",
    "plugin.config": "",
    "runroot.yaml": """
prefix: /usr
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {dir}
datadir: {dir}/cache
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {dir}/run
runtimedir: {dir}/run
logdir: {dir}/run
cachedir: {dir}/cache
""",
}
SQUID = """
http_port 127.0.0.1:{port} accel defaultsite=127.0.0.1 no-vhost
cache_peer 127.0.0.1 parent {origin} 0 no-query originserver no-digest
http_access allow all
cache_mem 4 GB
maximum_object_size_in_memory 4 MB
memory_cache_mode always
collapsed_forwarding on
access_log none
cache_log {dir}/cache.log
cache_store_log none
pid_filename {dir}/pid
coredump_dir {dir}
max_filedescriptors {files}
client_idle_pconn_timeout 1 hour
shutdown_lifetime 1 second
"""
ASIDECAR = """
[listen]
proxy = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
workers = {workers}
max_connections = {connections}
[upstream]
url = "http://127.0.0.1:{origin}"
[store]
memory = "{memory}"
{more}
"""


class Failed(Exception):
    """A server or the load did not do what it should: the part that wanted it is left out."""


def find(program):
    """Where a program is; Debian keeps daemons where not everybody's PATH leads."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def version(peer):
    program, arguments = PEERS[peer]
    out = subprocess.run([find(program), *arguments], capture_output=True, text=True, timeout=20)
    return re.search(r"\d+\.\d+(\.\d+)*", out.stdout + out.stderr)[0]


def free_port():
    """A free one, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def processors():
    """Two processors, of different cores if there are: one for the server, one for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("this needs two processors: one for the server, one for the load")
    try:
        text = pathlib.Path(f"/sys/devices/system/cpu/cpu{allowed[0]}/topology/thread_siblings_list").read_text()
        ranges = [tuple(map(int, r.split("-"))) for r in text.strip().split(",")]
        siblings = {n for r in ranges for n in range(r[0], r[-1] + 1)}
    except OSError:
        siblings = {allowed[0]}
    return allowed[0], next((n for n in allowed if n not in siblings), allowed[1])


class Server:
    """A running server, with all its children."""

    def __init__(self, name, command, port, cpus, path="/b/1/0", env=None):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cpus)), *map(str, command)], env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self._wait(path)
        except BaseException:
            self.stop()
            raise

    def _wait(self, path):
        """Until it answers, not just accepts: some listen before they are ready."""
        end = time.monotonic() + 30
        while True:
            try:
                if path:
                    self.get(path)
                else:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError as e:  # HTTPError is one too
                if time.monotonic() > end or self.process.poll() is not None:
                    self.log.seek(0)
                    said = self.log.read().decode(errors="replace").strip()[-1000:]
                    raise Failed(f"{self.name} did not start ({e}): {said}") from e
                time.sleep(0.05)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return response.read(), response.headers

    def pids(self):
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    todo += map(int, task.read_text().split())
                except OSError:
                    continue  # it ended meanwhile
        return found

    def pin(self, cpus):
        for pid in self.pids():
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), cpus)

    def cpu(self):
        """Seconds of processor time, as the kernel accounts for them."""
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def resident(self):
        """Bytes in memory; what processes share counts once."""
        rollups = (pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids())
        return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) for text in rollups) * 1024

    def stop(self):
        pids = self.pids()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # Children that outlived it are still in its session: that tells them from a new process of their number.
        for pid in pids[1:]:
            try:
                if os.getsid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.log.close()


class Stage:
    """What is started for a part of the benchmarks, and stopped with it."""

    def __init__(self, peers):
        self.server_cpu, self.load_cpu = processors()
        self.peers, self.running, self.folders = peers, [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Being ended once more must not leave anything behind.
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, signal.SIG_IGN) for number in ends]
        for server in self.running:
            server.process.terminate()  # all of them first: some take their time
        for server in reversed(self.running):
            server.stop()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        for number, handler in zip(ends, before):
            signal.signal(number, handler)

    def folder(self, name, where=None):
        path = pathlib.Path(tempfile.mkdtemp(prefix=f"asidecar-bench-{name}-", dir=where))
        self.folders.append(path)
        path.chmod(0o777)  # those who are started as root and become somebody else write here too
        return path

    def start(self, *arguments, **more):
        self.running.append(Server(*arguments, **more))
        return self.running[-1]

    def stop(self, server):
        self.running.remove(server)
        server.stop()

    def origin(self, cpu=None):
        port = free_port()
        self.upstream = self.start("origin", [RELEASE / "examples/bare", f"127.0.0.1:{port}", "origin"], port,
                                   [self.load_cpu if cpu is None else cpu])
        return self.upstream

    def asked(self):
        """How many requests the origin has had."""
        return int(self.upstream.get("/count")[0])

    def bare(self):
        return self.library("bare hyper")

    def bare_with_bodies(self, name="bare hyper, 1,000 bodies"):
        """The same with a body for each key, as a cache has."""
        return self.library(name, "each")

    def bare_proxy(self):
        """What a proxy of the library costs at least."""
        return self.library("bare hyper proxy", "proxy", f"127.0.0.1:{self.upstream.port}")

    def library(self, name, *mode):
        port = free_port()
        return self.start(name, [RELEASE / "examples/bare", f"127.0.0.1:{port}", *mode], port, [self.server_cpu])

    def asidecar(self, name="asidecar", workers=1, cpus=None, memory="4GiB", more="", ready="/b/1/0",
                 program=SHIPPED):
        folder, port, admin = self.folder("asidecar"), free_port(), free_port()
        (folder / "asidecar.toml").write_text(ASIDECAR.format(
            port=port, admin=admin, workers=workers, connections=CONNECTIONS, origin=self.upstream.port, memory=memory,
            more=more))
        # What the caller's environment says would win over the file.
        env = {name: "" for name in os.environ if name.startswith("ASIDECAR_")}
        server = self.start(name, ["env", *(f"--unset={n}" for n in env), program, "run", "--config",
                                   folder / "asidecar.toml"], port, cpus or [self.server_cpu], path=ready)
        server.admin = admin
        return server

    def peer(self, name):
        folder, port, origin = self.folder(name), free_port(), self.upstream.port
        program = find(PEERS[name][0])
        values = {"dir": folder, "port": port, "origin": origin, "connections": CONNECTIONS, "files": 16_000,
                  "user": "user root;" if os.geteuid() == 0 else ""}
        if name == "varnish":
            # Its log is a file in shared memory: the manual wants it in memory.
            memory = pathlib.Path("/dev/shm")
            folder = self.folder(name, memory if os.access(memory, os.W_OK) else None)
            command = [program, "-F", "-j", "none", "-n", folder, "-a", f"127.0.0.1:{port}",
                       "-b", f"127.0.0.1:{origin}", "-s", "malloc,4g", "-p", "thread_pools=1",
                       "-p", "thread_pool_min=200", "-p", "listen_depth=4096", "-p", "timeout_idle=3600"]
        elif name == "trafficserver":
            for sub in ("cache", "run"):
                (folder / sub).mkdir()
            for file, text in TRAFFICSERVER.items():
                (folder / file).write_text(text.format(**values))
            command = [program, f"--run-root={folder}/runroot.yaml"]
        else:
            text, arguments = {"nginx": (NGINX, ["-p", folder, "-c"]), "haproxy": (HAPROXY, ["-db", "-f"]),
                               "squid": (SQUID, ["-N", "-f"])}[name]
            (folder / "conf").write_text(text.format(**values))
            command = [program, *arguments, folder / "conf"]
        return self.start(name, command, port, [self.server_cpu])

    def redis(self):
        port, folder = free_port(), self.folder("redis")
        own = RELEASE.parent / "tools/redis-server"
        program = own if own.exists() else "redis-server"
        return self.start("redis", [program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                    "--dir", folder], port, [self.load_cpu], path=None)

    def post(self, port, path, message):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(message).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
