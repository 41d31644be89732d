#!/usr/bin/env python3
"""CPU time and latency of a memory hit, side by side with nginx, HAProxy and a bare hyper server.

  benches/compare.py [--sizes 1024,16384,262144] [--rounds 3] [--seconds 4] [--peers nginx,haproxy]

One processor for the server, the other for the load (wrk): 64 kept connections, 1,000 keys, every server in
turn within each round, medians over the rounds. CPU microseconds a hit are the kernel's own accounting of the
server's processes, so they bear a busy machine better than requests a second do. Needs `cargo build
--release --example bare` and `--bin asidecar`, python3, taskset, and Debian's wrk, nginx and haproxy.
All traffic stays on 127.0.0.1, and everything that was started is stopped.
"""
import argparse
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
KEYS, CONNECTIONS = 1000, 64
TICK = os.sysconf("SC_CLK_TCK")

NGINX = """
worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 2048; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 1h; sendfile on; tcp_nopush on; tcp_nodelay on;
  open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  proxy_cache_path {dir}/cache levels=1:2 keys_zone=z:64m max_size=1g inactive=1h use_temp_path=off;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_cache z; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status; }} }} }}
"""
HAPROXY = """
global
  maxconn 4096
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout http-keep-alive 1h
  timeout server 60s
cache c
  total-max-size 1000
  max-object-size 1000000
  max-age 3600
frontend f
  bind 127.0.0.1:{port}
  http-request cache-use c
  http-response cache-store c
  default_backend o
backend o
  http-reuse always
  server s 127.0.0.1:{origin}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server on processor 0 (the origin: on 1), and its CPU time with all its children's."""

    def __init__(self, name, command, port, env=None, cpu="0"):
        self.name, self.port = name, port
        self.process = subprocess.Popen(
            ["taskset", "-c", cpu, *map(str, command)], env={**os.environ, **(env or {})},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    sys.exit(f"{name} did not start: {' '.join(map(str, command))}")
                time.sleep(0.05)

    def pids(self):
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, task.read_text().split())
        return found

    def cpu(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def resident(self):
        return sum(int(re.search(r"Pss:\s+(\d+)", pathlib.Path(f"/proc/{p}/smaps_rollup").read_text())[1])
                   for p in self.pids()) / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def load(port, size, seconds, script):
    env = {**os.environ, "SIZE": str(size), "KEYS": str(KEYS)}
    out = subprocess.run(["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script,
                          f"http://127.0.0.1:{port}"], env=env, capture_output=True, text=True, check=True).stdout
    requests, duration, p50, p99, bad = map(int, re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", out).groups())
    return {"hits": requests, "rate": requests * 1e6 / duration, "p50": p50 / 1000, "p99": p99 / 1000, "bad": bad}


WRK = """
local size, keys = os.getenv("SIZE"), tonumber(os.getenv("KEYS"))
request = function() return wrk.format("GET", "/b/" .. size .. "/" .. math.random(1, keys)) end
done = function(s, l, r)
  local e = s.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", s.requests, s.duration, l:percentile(50), l:percentile(99),
    e.status + e.read + e.write + e.connect + e.timeout))
end
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1024,16384,262144")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--peers", default="nginx,haproxy")
    args = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("this needs two processors: one for the server, one for the load")
    for program in ["wrk", "taskset", *filter(None, args.peers.split(","))]:
        if not shutil.which(program) and not pathlib.Path("/usr/sbin", program).exists():
            sys.exit(f"{program} is missing: apt-get install wrk nginx haproxy util-linux")
    servers = []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="asidecar-bench-"))
    os.chmod(folder, 0o755)
    try:
        origin = free_port()
        servers.append(Server("origin", [RELEASE / "examples/bare", f"127.0.0.1:{origin}"], origin, cpu="1"))
        script = folder / "load.lua"
        script.write_text(WRK)
        compared = []

        def add(name, command, port, env=None):
            compared.append(Server(name, command, port, env))
            servers.append(compared[-1])

        port = free_port()
        add("bare hyper", [RELEASE / "examples/bare", f"127.0.0.1:{port}"], port)
        port, admin = free_port(), free_port()
        add("asidecar", [RELEASE / "asidecar", "run", "--upstream", f"http://127.0.0.1:{origin}"], port, {
            "ASIDECAR_LISTEN__PROXY": f"127.0.0.1:{port}", "ASIDECAR_LISTEN__ADMIN": f"127.0.0.1:{admin}",
            "ASIDECAR_STORE__MEMORY": "1GiB"})
        for peer in filter(None, args.peers.split(",")):
            port = free_port()
            own = folder / peer
            own.mkdir()
            text = {"nginx": NGINX, "haproxy": HAPROXY}[peer].format(dir=own, port=port, origin=origin)
            (own / "conf").write_text(text)
            add(peer, {"nginx": ["/usr/sbin/nginx", "-c", own / "conf"],
                       "haproxy": ["/usr/sbin/haproxy", "-f", own / "conf"]}[peer], port)
        print("| body | server | CPU us a hit | to bare | hits a second | p50 ms | p99 ms | resident MiB |")
        print("|---|---|---|---|---|---|---|---|")
        for size in map(int, args.sizes.split(",")):
            rows = {s.name: [] for s in compared}
            for s in compared:
                load(s.port, size, 2, script)
            for _ in range(args.rounds):
                for s in compared:
                    before = s.cpu()
                    row = load(s.port, size, args.seconds, script)
                    row["cpu"] = (s.cpu() - before) * 1e6 / max(row["hits"], 1)
                    rows[s.name].append(row)
            middle = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in rows.items()}
            bare = middle["bare hyper"]["cpu"]
            for s in compared:
                m = middle[s.name]
                note = f" ({m['bad']:.0f} errors)" if m["bad"] else ""
                print(f"| {size} | {s.name}{note} | {m['cpu']:.1f} | {m['cpu'] / bare:.2f} | {m['rate']:.0f} "
                      f"| {m['p50']:.2f} | {m['p99']:.2f} | {s.resident():.0f} |", flush=True)
    finally:
        for s in reversed(servers):
            s.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
