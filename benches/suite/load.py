"""The load: wrk for hits as fast as they come, our own generator (benches/load.rs) for all the rest."""
import json
import os
import pathlib
import re
import subprocess

from .servers import RELEASE, Failed

CONNECTIONS = 64
# The path's %d is the number of the key.
LUA = """
local path, keys = os.getenv("BENCH_PATH"), tonumber(os.getenv("BENCH_KEYS"))
request = function() return wrk.format("GET", string.format(path, math.random(1, keys))) end
done = function(s, l)
  local e = s.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", s.requests, s.duration, l:percentile(50), l:percentile(99),
    l:percentile(99.9), e.status + e.read + e.write + e.connect + e.timeout))
end
"""


def command(stage, arguments, shared):
    cpus = f"{stage.server_cpu},{stage.load_cpu}" if shared else str(stage.load_cpu)
    return ["taskset", "-c", cpus, *map(str, arguments)]


def finish(arguments, seconds, env=None):
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise Failed(f"{arguments[3]}: {done.stderr.strip()[-500:]}")
    return done.stdout


def wrk(stage, server, path, keys, seconds, shared=False):
    """Hits in no order, as fast as they come; times in milliseconds, `cpu` in microseconds a request."""
    script = pathlib.Path(stage.folder("wrk")) / "load.lua"
    script.write_text(LUA)
    env = {**os.environ, "BENCH_PATH": path.replace("{}", "%d"), "BENCH_KEYS": str(keys)}
    arguments = command(stage, ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script,
                                f"http://127.0.0.1:{server.port}"], shared)
    before = server.cpu()
    out = finish(arguments, seconds + 60, env)
    cpu = server.cpu() - before
    requests, took, p50, p99, p999, errors = map(float, re.search(r"RESULT" + r" ([\d.]+)" * 6, out).groups())
    return {"cpu": cpu * 1e6 / max(requests, 1), "rate": requests * 1e6 / took, "p50": p50 / 1000, "p99": p99 / 1000,
            "p999": p999 / 1000, "requests": requests, "errors": errors}


def run(stage, port, *paths, seconds=5, redis=False, random=False, **options):
    """Our generator's own words: counts, and times in microseconds."""
    arguments = [RELEASE / "examples/load", "run", "--to", f"127.0.0.1:{port}", "--seconds", seconds]
    arguments += [a for path in paths for a in ("--path", path)]
    arguments += [a for name, value in options.items() for a in (f"--{name}", value)]
    arguments += ["--redis"] * redis + ["--random"] * random
    return json.loads(finish(command(stage, arguments, False), seconds + 60))


def fill(stage, server, path, keys, seconds=600, times=1):
    """Asks for each key once (or more often, one pass after the other), and says how many were answered."""
    result = run(stage, server.port, path, seconds=seconds, keys=keys, count=keys * times)
    if result["errors"] or result["status"] != {"200": keys * times}:
        raise Failed(f"{server.name}: filling {keys} keys: {result['errors']} errors, {result['status']}, "
                     f"{result['seconds']:.0f} s")


class Idle:
    """Open connections, each of which has asked once, until the end of the block."""

    def __init__(self, stage, server, connections, path):
        self.arguments = command(stage, [RELEASE / "examples/load", "idle", "--to", f"127.0.0.1:{server.port}",
                                         "--path", path, "--connections", connections], False)

    def __enter__(self):
        self.process = subprocess.Popen(self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.open = json.loads(line)["open"] if line else 0
        return self

    def __exit__(self, *_):
        try:
            self.process.communicate("\n", timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
