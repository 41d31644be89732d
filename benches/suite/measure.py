"""What is measured. Each part starts its servers, measures them in turn within each round, and returns plain data."""
import contextlib
import pathlib
import re
import resource
import socket
import statistics
import sys
import time

from . import load
from .servers import CONNECTIONS, PLAIN, Failed, Stage

MIB = 1 << 20
KEYS = 1000


def say(text):
    print(f"# {text}", file=sys.stderr, flush=True)


def busy(seconds=2):
    """How busy others keep the processors, while nothing of ours runs: 1 is all of them."""
    def read():
        fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ticks = list(map(int, fields))
        return sum(ticks), ticks[3] + ticks[4]
    total, idle = read()
    time.sleep(seconds)
    total_after, idle_after = read()
    return 1 - (idle_after - idle) / max(total_after - total, 1)


def middle(rows):
    """The median of each figure over the rounds."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


PLAIN_BUILD = "asidecar, plain build"


def all_servers(stage, bare=True, more=""):
    """asidecar, with these lines more in its configuration, and all its peers; whoever can't be started is left out, and
    said so."""
    servers = [stage.bare(), stage.bare_with_bodies()] if bare else []
    servers += [stage.asidecar(more=more), stage.asidecar(PLAIN_BUILD, more=more, program=PLAIN)]
    for peer in stage.peers:
        try:
            servers.append(stage.peer(peer))
        except Failed as e:
            say(f"left out: {e}")
    return servers


def warm(stage, servers, path, keys=KEYS, times=3):
    """Has every key asked for, by everybody who answers. More often than once, since some have an object in memory
    only once somebody asked again."""
    for server in list(servers):
        try:
            load.fill(stage, server, path, keys, times=times)
        except Failed as e:
            servers.remove(server)
            say(f"left out: {e}")


@contextlib.contextmanager
def alone(stage, start):
    """A server for the block alone."""
    server = start()
    try:
        yield server
    finally:
        stage.stop(server)


def each_alone(stage, use):
    """Uses asidecar and each of its peers, one running at a time; whoever fails is left out, and said so."""
    for name in ["asidecar", *stage.peers]:
        try:
            with alone(stage, stage.asidecar if name == "asidecar" else lambda: stage.peer(name)) as server:
                use(server)
        except Failed as e:
            say(f"left out: {e}")


def rounds(options, stage, servers, path, keys=None, shared=()):
    """CPU and latency of hits, every server in turn within each round. What the origin was asked meanwhile shows
    whether they were hits. `ratio` is the CPU to that of the first server in the same round. `keys` is how many a server
    holds, where that is not the usual number; those that are `shared` share their processors with the load."""
    rows = {server.name: [] for server in servers}
    for n in range(options.rounds):
        for server in servers:
            asked = stage.asked()
            row = load.wrk(stage, server, path, (keys or {}).get(server.name, KEYS), options.seconds,
                           server.name in shared)
            row["from_origin"] = (stage.asked() - asked) / max(row["requests"], 1)
            rows[server.name].append(row)
            say(f"round {n + 1}, {path}, {server.name}: {row['cpu']:.2f} us of CPU, {row['rate']:.0f} a second")
    # Neighbours come and go: what is compared was measured within the same seconds.
    for own in rows.values():
        for row, first in zip(own, [row["cpu"] for row in rows[servers[0].name]]):
            row["ratio"] = row["cpu"] / first
    return {name: middle(own) for name, own in rows.items()}


def hits(options):
    """Hits from memory, all servers side by side."""
    result = {}
    with Stage(options.peers) as stage:
        stage.origin()
        servers = all_servers(stage)
        for size in options.sizes:
            path = f"/b/{size}/{{}}"
            warm(stage, servers, path)
            result[str(size)] = rounds(options, stage, servers, path)
            for server in servers:
                result[str(size)][server.name]["resident"] = server.resident() / MIB
    return {"sizes": result}


def redis(options):
    """Hits in Redis, by an asidecar without memory."""
    value = 1024
    with Stage(options.peers) as stage:
        stage.origin()
        store = stage.redis()
        url = f'redis = "redis://127.0.0.1:{store.port}/0"'
        memory, tier = stage.asidecar("from memory"), stage.asidecar("from Redis", memory="0", more=url)
        path = f"/b/{value}/{{}}"
        for server in (memory, tier):
            load.fill(stage, server, path, KEYS, times=2)
        hit = rounds(options, stage, [memory, tier], path)
        # Latency at a rate that nobody feels. Redis beside the proxy now, so that both ways cross once between
        # processors.
        store.pin([stage.server_cpu])
        with socket.create_connection(("127.0.0.1", store.port), 5) as s:
            record = b"x" * (value + 200)
            s.sendall(b"*3\r\n$3\r\nSET\r\n$5\r\nplain\r\n$%d\r\n%s\r\n" % (len(record), record))
            s.recv(100)
        ways = {"plain GET": (store.port, "plain", True), "from Redis": (tier.port, path, False),
                "from memory": (memory.port, path, False)}
        rows = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (port, what, plain) in ways.items():
                row = load.run(stage, port, what, seconds=options.seconds, rate=options.rate, keys=KEYS,
                               connections=16, redis=plain)
                rows[name].append({**row["latency"], "errors": row["errors"]})
                say(f"{name}: p50 {row['latency']['p50']:.0f} us at {options.rate} a second")
    return {"hits": hit, "latency": {name: middle(own) for name, own in rows.items()}, "rate": options.rate}


def miss(options):
    """What a request that is not answered from the cache costs: stored, passed on, and large."""
    large = 8 * MIB
    with Stage(options.peers) as stage:
        # Beside the proxy, as an API and its sidecar are: the direct way and that through the proxy then both cross
        # once between processors.
        stage.origin(cpu=stage.server_cpu)
        told = "".join(f'[[route]]\nname = "{kind}"\nmatch = "/{kind}/{{size}}/{{key}}"\ncache = false\n' for kind in "us")
        servers = [stage.bare_proxy(), *all_servers(stage, bare=False, more=told), stage.asidecar("asidecar, not told")]
        ways = {"direct": stage.upstream, **{server.name: server for server in servers}}
        kinds = {
            "miss": ("/b/1024/{}", options.rate), "bypass": ("/u/1024/{}", options.rate),
            "small": ("/s/1024/{}", 4), "large": (f"/s/{large}/{{}}", 4),
        }
        rows = {name: {kind: [] for kind in kinds} for name in ways}
        first = 1_000_000
        for _ in range(options.rounds):
            for kind, (path, rate) in kinds.items():
                for name, server in ways.items():
                    # Every key is new to everybody.
                    first += 1_000_000
                    streamed = kind in ("small", "large")
                    # Streams should not overlap, and there should be some of them.
                    seconds = max(options.seconds, 4) if streamed else options.seconds
                    row = load.run(stage, server.port, path, seconds=seconds, rate=rate, first=first, connections=16)
                    times = row["first_byte" if streamed else "latency"]
                    failed = row["errors"] + sum(n for status, n in row["status"].items() if status != "200")
                    rows[name][kind].append({**times, "errors": failed})
                    say(f"{kind}, {name}: p50 {times['p50']:.0f} us at {rate} a second, {failed} errors")
        passed = {}
        for size in (1024, 256 << 10):
            own = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, server in ways.items():
                    own[name].append(load.wrk(stage, server, f"/u/{size}/{{}}", KEYS, options.seconds))
                    say(f"passed on, {size} bytes, {name}: {own[name][-1]['rate']:.0f} a second")
            passed[str(size)] = {name: middle(r) for name, r in own.items()}
    latency = {name: {kind: middle(r) for kind, r in own.items()} for name, own in rows.items()}
    return {"latency": latency, "rate": options.rate, "throughput": passed}


def settled(server):
    """Resident bytes, once they have stopped moving."""
    time.sleep(1)
    return server.resident()


def stored_bytes(stage, server, path):
    """Of the key and of the fields of the stored response."""
    _, fields = stage.upstream.get(path)
    key = f"//127.0.0.1:{server.port}{path}"
    return len(key), sum(len(name) + len(value) for name, value in fields.items() if name.lower() != "connection")


def memory(options):
    """Resident bytes: idle, for each entry, for each idle connection, and while entries come and go."""
    size, entries = 256, options.entries
    limit = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    if limit < 10_000:
        say(f"the limit on open files allows {limit} connections only")
    result = {"entries": entries, "body": size, "connections": limit, "servers": {}}
    with Stage(options.peers) as stage:
        stage.origin()

        def filled(server):
            idle = settled(server)
            load.fill(stage, server, f"/b/{size}/{{}}", entries, times=2)
            result["key"], result["fields"] = stored_bytes(stage, server, f"/b/{size}/{entries}")
            over_body = (settled(server) - idle) / entries - size
            result["servers"][server.name] = {
                "idle": idle, "over_body": over_body, "over_all": over_body - result["key"] - result["fields"]}
            say(f"{server.name}: idle {idle / MIB:.1f} MiB, {over_body:.0f} bytes an entry over its body")

        def connected(server):
            before = settled(server)
            with load.Idle(stage, server, limit, "/b/64/1") as idle:
                if idle.open < limit:
                    raise Failed(f"{server.name} keeps {idle.open} of {limit} connections only")
                each = (settled(server) - before) / limit
            result["servers"].setdefault(server.name, {})["connection"] = each
            say(f"{server.name}: {each / 1024:.2f} KiB an idle connection")

        each_alone(stage, filled)
        each_alone(stage, connected)
        result["churn"] = churn(options, stage)
    return result


def churn(options, stage):
    """Bodies of mixed sizes, many times what the store holds, while the resident size is watched."""
    store = options.churn_store * MIB
    sizes = (256, 700, 2000, 5000, 9000, 20_000, 40_000, 90_000, 200_000)
    keys = 10 * store // (sum(sizes) // len(sizes))
    with alone(stage, lambda: stage.asidecar(memory=f"{options.churn_store}MiB")) as server:
        idle, peak, requests, slice_ = server.resident(), 0, 0, 10
        end = time.monotonic() + options.churn
        while (left := end - time.monotonic()) > 0:
            row = load.run(stage, server.port, *(f"/b/{n}/{{}}" for n in sizes), seconds=min(slice_, max(left, 1)),
                           keys=keys, first=1 + requests, random=True)
            requests += row["requests"]
            peak = max(peak, server.resident())
            say(f"churn: {requests} requests, {server.resident() / MIB:.0f} MiB, {left:.0f} s to go")
        return {"store": store, "seconds": options.churn, "requests": requests, "keys": keys, "idle": idle,
                "peak": peak, "end": settled(server)}


def available():
    """Bytes of memory that are to be had."""
    return int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) * 1024


def growth(options):
    """What must not make a hit dearer: keys, processors, routes, tags, invalidations."""
    result = {}
    counts = [10**3, 10**4, 10**5] + [10**6] * (not options.quick)
    if options.long:
        if available() > 12 << 30:
            counts.append(5 * 10**6)
        else:
            say("5,000,000 keys are left out: that wants 12 GiB of free memory")
    with Stage(options.peers) as stage:
        stage.origin()
        # All at once, so that every round has them all under the same conditions. A bare server with as many bodies shows
        # what the processor's caches do.
        servers, keys = [], {}
        for n in counts:
            say(f"filling {n} keys")
            for server in (stage.asidecar(str(n), memory="10GiB"), stage.bare_with_bodies(f"bare {n}")):
                load.fill(stage, server, "/b/64/{}", n, seconds=1800)
                servers.append(server)
                keys[server.name] = n
        cpu = rounds(options, stage, servers, "/b/64/{}", keys=keys)
        result["keys"] = {str(n): cpu[str(n)] for n in counts}
        result["bare"] = {str(n): cpu[f"bare {n}"] for n in counts}

    def compare(what, starters, shared=()):
        with Stage(options.peers) as stage:
            stage.origin()
            servers = [start(stage) for start in starters]
            for server in servers:
                load.fill(stage, server, "/b/1024/{}", KEYS, times=2)
            result[what] = rounds(options, stage, servers, "/b/1024/{}", shared=shared)

    def route(tags=()):
        return f'[[route]]\nname = "b"\nmatch = "/b/{{size}}/{{key}}"\ntags = {list(tags)}\n'

    def routes(n):
        more = "".join(f'[[route]]\nname = "r{i}"\nmatch = "/api{i}/{{id}}"\n' for i in range(1, n))
        return lambda stage: stage.asidecar(f"{n} route{'s' * (n > 1)}", more=route() + more)

    def marked(stage):
        server = stage.asidecar("1000000 marks", more="[invalidation]\ntable_size = 2000000\n")
        for begin in range(0, 10**6, 4000):
            stage.post(server.admin, "/api/invalidate", {"tags": [f"t{n}" for n in range(begin, begin + 4000)]})
        return server

    compare("processors", [lambda s: s.asidecar("1 processor"),
                           lambda s: s.asidecar("2 processors", workers=2, cpus=[s.server_cpu, s.load_cpu])],
            shared=("2 processors",))
    compare("routes", [routes(n) for n in (1, 10, 100, 1000)])
    compare("tags", [lambda s: s.asidecar("1 tag", more=route(["t"])),
                     lambda s: s.asidecar("100 tags", more=route(f"t{n}" for n in range(100)))])
    compare("marks", [lambda s: s.asidecar("no marks", more="[invalidation]\ntable_size = 2000000\n"), marked])
    return result


def stampede(options):
    """Very many clients at once, one cold key, a slow origin."""
    clients, wait = options.clients, 200
    result = {"clients": clients, "wait": wait, "servers": {}}
    with Stage(options.peers) as stage:
        stage.origin()
        key = 0
        for server in all_servers(stage, bare=False):
            rows = []
            for _ in range(max(options.rounds, 3)):
                key += 1
                before = stage.asked()
                row = load.run(stage, server.port, f"/slow/{wait}/1024/{{}}", seconds=20, count=clients, keys=1,
                               first=key, connections=clients)
                failed = row["errors"] + sum(n for status, n in row["status"].items() if status != "200")
                rows.append({"asked": stage.asked() - before, "failed": failed, "slowest": row["latency"]["max"] / 1000,
                             "p50": row["latency"]["p50"] / 1000})
                time.sleep(0.5)
            result["servers"][server.name] = {**middle(rows), "most": max(r["asked"] for r in rows)}
            say(f"stampede, {server.name}: {result['servers'][server.name]}")
    return result


PARTS = {"hits": hits, "redis": redis, "miss": miss, "memory": memory, "growth": growth, "stampede": stampede}
assert CONNECTIONS > 10_000  # of idle ones
