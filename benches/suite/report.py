"""What was measured as Markdown tables, as goals that are met or not, as charts, and in docs/performance.md."""
import json
import os
import pathlib
import re
import subprocess
import time

from . import charts
from .servers import ROOT, version

MIB = 1 << 20
PAGE = ROOT / "docs/performance.md"
FOLDER = ROOT / "docs/performance"
RESULTS = FOLDER / "results.json"


def size_name(size):
    size = int(size)
    return f"{size >> 20} MiB" if size >= MIB else f"{size >> 10} KiB" if size >= 1024 else f"{size} B"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def thousands(text):
    return re.sub(r"\d{4,}", lambda n: f"{int(n[0]):,}", text)


def missed(m):
    """What makes a row of hits doubtful."""
    notes = [f"{m['errors']:.0f} errors"] * (m["errors"] > 0)
    notes += [f"{m['from_origin']:.0%} from the origin"] * (m["from_origin"] > 0.005)
    return f" ({', '.join(notes)})" * bool(notes)


def peers_of(names):
    return [n for n in names if n != "direct" and not n.startswith(("asidecar", "bare"))]


def hits_tables(data):
    rows = []
    for size, servers in data["sizes"].items():
        for name, m in servers.items():
            rows.append([size_name(size), name + missed(m), f"{m['cpu']:.2f}",
                         f"{m['ratio']:.2f}", f"{m['rate']:,.0f}", f"{m['p50']:.2f}", f"{m['p99']:.2f}",
                         f"{m['p999']:.2f}", f"{m['resident']:.0f}"])
    yield table(["body", "server", "CPU us a hit", "to bare", "hits a second", "p50 ms", "p99 ms", "p99.9 ms",
                 "resident MiB"], rows)


# asidecar as it is shipped, and as cargo alone builds it.
OURS = {"asidecar": "", "asidecar, plain build": ", plain build"}


def hits_goals(data):
    for size, servers in data["sizes"].items():
        ratios = {name: m["ratio"] for name, m in servers.items()}
        for name, note in OURS.items():
            yield (f"CPU of a hit, {size_name(size)}{note}, to the bare hyper server", "at most 1.05",
                   f"{ratios[name]:.2f}", ratios[name] <= 1.05)
        ours = ratios["asidecar"]
        each = servers.get("bare hyper, 1,000 bodies")
        if each:
            yield (f"CPU of a hit, {size_name(size)}, to the bare hyper server with a body for each key",
                   "at most 1.05", f"{ours / each['ratio']:.2f}", ours <= 1.05 * each["ratio"])
        peers = {n: ratios[n] for n in peers_of(servers)}
        if peers:
            best = min(peers, key=peers.get)
            yield (f"CPU of a hit, {size_name(size)}, to that of the best peer", "less than 1",
                   f"{ours / peers[best]:.2f} ({best})", ours < peers[best])


def hits_charts(data):
    def panels(key, digits=lambda v: v):
        return [(size_name(size), [(n, digits(m[key])) for n, m in servers.items()])
                for size, servers in data["sizes"].items()]
    yield "cpu", charts.bars("CPU of a hit from memory", "Microseconds of the server's processor; less is better.",
                             panels("cpu"))
    yield "throughput", charts.bars("Hits from memory", "A second, on one processor; more is better.", panels("rate"))
    size, servers = next(iter(data["sizes"].items()))
    yield "latency", charts.bars(
        f"Latency of a hit from memory, {size_name(size)}",
        "Milliseconds, with 64 connections that ask as fast as they are answered; less is better.",
        [(title, [(n, m[key]) for n, m in servers.items()])
         for title, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))])


def redis_tables(data):
    yield table(["hit", "CPU us a hit", "to memory", "hits a second", "p50 ms", "p99 ms", "p99.9 ms"],
                [[n + missed(m), f"{m['cpu']:.2f}", f"{m['ratio']:.2f}", f"{m['rate']:,.0f}", f"{m['p50']:.2f}",
                  f"{m['p99']:.2f}", f"{m['p999']:.2f}"] for n, m in data["hits"].items()])
    yield table([f"at {data['rate']} a second", "p50 us", "p99 us", "p99.9 us"],
                [[n, f"{m['p50']:.0f}", f"{m['p99']:.0f}", f"{m['p999']:.0f}"] for n, m in data["latency"].items()])


def redis_goals(data):
    ratio = data["hits"]["from Redis"]["ratio"]
    yield "CPU of a hit in Redis, in the proxy, to a hit in memory", "at most 2.2", f"{ratio:.2f}", ratio <= 2.2
    more = data["latency"]["from Redis"]["p50"] - data["latency"]["plain GET"]["p50"]
    yield "latency of a hit in Redis over a plain GET, p50", "at most 100 us", f"{more:.0f} us", more <= 100


def miss_tables(data):
    direct = data["latency"]["direct"]
    yield table(["way", "miss p50 us", "over direct", "p99 us", "bypass p50 us", "over direct", "p99 us",
                 "first byte of 1 KiB p50 us", "of 8 MiB"],
                [[n + f" ({m['miss']['errors'] + m['bypass']['errors']:.0f} errors)"
                  * (m["miss"]["errors"] + m["bypass"]["errors"] > 0),
                  f"{m['miss']['p50']:.0f}", f"{m['miss']['p50'] - direct['miss']['p50']:.0f}",
                  f"{m['miss']['p99']:.0f}", f"{m['bypass']['p50']:.0f}",
                  f"{m['bypass']['p50'] - direct['bypass']['p50']:.0f}", f"{m['bypass']['p99']:.0f}",
                  f"{m['small']['p50']:.0f}", f"{m['large']['p50']:.0f}"] for n, m in data["latency"].items()])
    yield table(["uncacheable", "way", "a second", "CPU us each, of the proxy"],
                [[size_name(size), n + f" ({m['errors']:.0f} errors)" * (m["errors"] > 0), f"{m['rate']:,.0f}",
                  "" if n == "direct" else f"{m['cpu']:.2f}"]
                 for size, ways in data["throughput"].items() for n, m in ways.items()])


def miss_goals(data):
    direct = data["latency"]["direct"]
    for name, note in OURS.items():
        for kind in ("miss", "bypass"):
            more = data["latency"][name][kind]["p50"] - direct[kind]["p50"]
            yield (f"latency of a {kind} over direct, p50, at {data['rate']} a second{note}", "at most 60 us",
                   f"{more:.0f} us", more <= 60)
    ours = data["latency"]["asidecar"]
    more = (ours["large"]["p50"] - ours["small"]["p50"]) - (direct["large"]["p50"] - direct["small"]["p50"])
    yield ("time to first byte of 8 MiB over that of 1 KiB, beyond what it is directly", "at most 60 us",
           f"{more:.0f} us", more <= 60)
    for size, ways in data["throughput"].items():
        if "nginx" in ways:
            for name, note in OURS.items():
                ratio = ways[name]["rate"] / ways["nginx"]["rate"]
                yield (f"uncacheable answers a second, {size_name(size)}, to nginx's{note}", "at least 1",
                       f"{ratio:.2f}", ratio >= 1)


def miss_charts(data):
    latency = data["latency"]
    panels = [(title, [(n, m[kind]["p50"]) for n, m in latency.items()])
              for title, kind in (("miss", "miss"), ("bypass", "bypass"), ("first byte of 8 MiB", "large"))]
    yield "miss", charts.bars("Latency of what is not in the cache",
                              f"p50 in microseconds, {data['rate']} a second (8 MiB: 4 a second); less is better.",
                              panels)
    yield "passthrough", charts.bars(
        "Uncacheable answers", "A second, with the proxy and the origin on one processor; more is better.",
        [(size_name(size), [(n, m["rate"]) for n, m in ways.items()]) for size, ways in data["throughput"].items()])


def cell(m, key, unit, digits):
    """A figure of memory; less than nothing an entry is none."""
    if key not in m:
        return "not measured"
    return "-" if "over" in key and m["over_body"] < 0 else f"{m[key] / unit:.{digits}f}"


def memory_tables(data):
    yield table(["server", "idle MiB", "bytes an entry over its body", "over key, fields and body",
                 "KiB an idle connection"],
                [[n, cell(m, "idle", MIB, 1), cell(m, "over_body", 1, 0), cell(m, "over_all", 1, 0),
                  cell(m, "connection", 1024, 2)] for n, m in data["servers"].items()])
    churn = data["churn"]
    yield (f"{data['entries']:,} entries of {data['body']} bytes, {data['key']} bytes of key, {data['fields']} of "
           "fields. \"-\": it did not grow by as much as the bodies (nginx keeps them in files, HAProxy takes all its "
           "memory at the start).\n")
    yield (f"Churn: {churn['requests']:,} requests in {churn['seconds']:.0f} s for bodies of 256 B to 200 KB, ten "
           f"times what the store of {churn['store'] // MIB} MiB holds and always new ones: "
           f"{churn['peak'] / MIB:.0f} MiB resident at most, {churn['end'] / MIB:.0f} MiB at the end.\n")


def memory_goals(data):
    ours, churn = data["servers"]["asidecar"], data["churn"]
    yield (f"memory for an entry beyond key, fields and body, {data['entries']:,} of {data['body']} bytes",
           "at most 350 bytes", f"{ours['over_all']:.0f} bytes", ours["over_all"] <= 350)
    yield "idle", "at most 15 MiB", f"{ours['idle'] / MIB:.1f} MiB", ours["idle"] <= 15 * MIB
    limit = 1.15 * churn["store"] + 20 * MIB
    yield (f"resident after {churn['seconds']:.0f} s of churn, store of {churn['store'] // MIB} MiB",
           f"at most {limit / MIB:.0f} MiB (store, 15 % and 20 MiB)", f"{churn['peak'] / MIB:.0f} MiB",
           churn["peak"] <= limit)
    if "connection" in ours:
        yield (f"memory for an idle connection, {data['connections']:,} of them", "at most 15 KiB",
               f"{ours['connection'] / 1024:.2f} KiB", ours["connection"] <= 15 * 1024)


def memory_charts(data):
    def panel(title, key, unit):
        return title, [(n, m[key] / unit) for n, m in data["servers"].items() if m.get(key, -1) >= 0]
    yield "memory", charts.bars("Memory", "Resident, what processes share counted once; less is better. "
                                "nginx keeps bodies in files, HAProxy takes all of it at the start.",
                                [panel("idle, MiB", "idle", MIB),
                                 panel("bytes an entry, over its body", "over_body", 1),
                                 panel("KiB an idle connection", "connection", 1024)])


def growth_tables(data):
    keys, bare = data["keys"], data["bare"]
    least, bare_least = next(iter(keys.values()))["cpu"], next(iter(bare.values()))["cpu"]
    yield table(["keys", "CPU us a hit", "to 1,000", "bare hyper, as many bodies", "to 1,000"],
                [[thousands(n) + missed(m), f"{m['cpu']:.2f}", f"{m['cpu'] / least:.2f}", f"{bare[n]['cpu']:.2f}",
                  f"{bare[n]['cpu'] / bare_least:.2f}"] for n, m in keys.items()])
    rows = []
    for what in ("processors", "routes", "tags", "marks"):
        rows += [[thousands(name), f"{m['cpu']:.2f}", f"{m['ratio']:.2f}", f"{m['rate']:,.0f}"]
                 for name, m in data[what].items()]
    yield table(["asidecar with", "CPU us a hit", "to the first", "hits a second"], rows)


def growth_goals(data):
    keys, bare = ({int(n): m["cpu"] for n, m in data[of].items()} for of in ("keys", "bare"))
    least, most = min(keys), max(keys)
    # What the bare server pays more for as many bodies is what the processor's caches miss.
    more, misses = keys[most] - keys[least], max(bare[most] - bare[least], 0)
    yield (f"CPU of a hit more, 1,000 to {most:,} keys", f"at most 20 % ({0.2 * keys[least]:.2f} us) and {misses:.2f} us of "
           "cache misses", f"{more:.2f} us", more <= 0.2 * keys[least] + misses)
    for what, title, target in (("processors", "CPU of a hit on two processors to that on one", 1.08),
                                ("routes", "CPU of a hit with 1,000 routes to that with one", 1.05),
                                ("tags", "CPU of a hit of an entry with 100 tags to that with one", 1.05),
                                ("marks", "CPU of a hit with 1,000,000 tags marked invalid to that with none", 1.05)):
        ratio = list(data[what].values())[-1]["ratio"]
        yield title, f"at most {target}", f"{ratio:.2f}", ratio <= target


def growth_charts(data):
    panels = [(title, [(thousands(n), m["cpu"]) for n, m in data[what].items()])
              for what, title in (("keys", "keys"), ("processors", "processors"), ("routes", "routes"),
                                  ("tags", "tags of an entry"), ("marks", "tags marked invalid"))]
    yield "growth", charts.bars(
        "What should not make a hit dearer", "Microseconds of asidecar's processor a hit; the more even the better.",
        panels, colour=lambda _: charts.OURS)


def stampede_tables(data):
    yield table(["server", "upstream asked", "at most", "slowest ms", "p50 ms", "failed"],
                [[n, f"{m['asked']:.0f}", f"{m['most']:.0f}", f"{m['slowest']:.0f}", f"{m['p50']:.0f}",
                  f"{m['failed']:.0f}"] for n, m in data["servers"].items()])


def stampede_goals(data):
    ours = data["servers"]["asidecar"]
    yield (f"{data['clients']:,} clients at once, one cold key: how often upstream is asked", "once",
           f"{ours['most']:.0f} at most", ours["most"] == 1 and ours["failed"] == 0)


def stampede_charts(data):
    servers = data["servers"]
    yield "stampede", charts.bars(
        f"{data['clients']:,} clients at once, one cold key", f"Upstream takes {data['wait']} ms; less is better.",
        [("upstream asked", [(n, m["asked"]) for n, m in servers.items()]),
         ("slowest client, ms", [(n, m["slowest"]) for n, m in servers.items()])])


PARTS = {
    "hits": (hits_tables, hits_goals, hits_charts),
    "redis": (redis_tables, redis_goals, None),
    "miss": (miss_tables, miss_goals, miss_charts),
    "memory": (memory_tables, memory_goals, memory_charts),
    "growth": (growth_tables, growth_goals, growth_charts),
    "stampede": (stampede_tables, stampede_goals, stampede_charts),
}


def machine(peers):
    """What it was measured on."""
    def first(path, pattern, otherwise):
        found = re.search(pattern, pathlib.Path(path).read_text(), re.M) if pathlib.Path(path).exists() else None
        return found[1].strip() if found else otherwise
    kib = int(first("/proc/meminfo", r"MemTotal:\s+(\d+)", "0"))
    return {"system": first("/etc/os-release", r'^PRETTY_NAME="?([^"\n]+)', "Linux"), "kernel": os.uname().release,
            "processor": first("/proc/cpuinfo", r"^model name\s*:(.*)", os.uname().machine),
            "processors": os.cpu_count(),
            "memory": f"{kib / MIB:.0f} GiB", "peers": {p: version(p) for p in peers},
            "commit": commit()}


def commit():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def conditions(part):
    m, o = part["machine"], part["options"]
    peers = ", ".join(f"{p} {v}" for p, v in m["peers"].items()) or "no peers"
    busy = part.get("busy", 0)
    return (f"{part['taken']}, {m['system']}, {m['processors']} processors ({m['processor']}), {m['memory']}; "
            f"asidecar at {m['commit']}, {peers}; rounds: {o['rounds']}, of {o['seconds']} s each."
            + f" Other work kept the processors {busy:.0%} busy before or after." * (busy > 0.05) + "\n")


def goals(results):
    rows = [[title, target, measured, "yes" if met else "**no**"]
            for name, part in results.items() for title, target, measured, met in PARTS[name][1](part["data"])]
    return table(["goal", "target", "measured", "met"], rows)


def section(name, part):
    return conditions(part) + "\n" + "\n".join(PARTS[name][0](part["data"]))


def markdown(results):
    return "\n".join([f"## {name}\n\n{section(name, part)}" for name, part in results.items()]
                     + ["## goals\n\n" + goals(results)])


def wrap(options, data, peers, busy):
    """A part with what it takes to read it later."""
    return {"taken": time.strftime("%Y-%m-%d"), "machine": machine(peers), "busy": round(busy, 2), "options": options,
            "data": data}


def replace(text, name, body):
    """Puts a generated section between its markers."""
    begin, end = f"<!-- written by `make bench`: {name} -->\n", "<!-- end -->"
    if begin not in text:
        raise SystemExit(f"{PAGE} has no section {name}")
    before, rest = text.split(begin, 1)
    return before + begin + body + end + rest.split(end, 1)[1]


def write(results):
    """Puts new parts beside those that were measured earlier, and writes the page and its charts anew."""
    FOLDER.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = {name: {**known, **results}[name] for name in PARTS if name in known or name in results}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    text = replace(PAGE.read_text(), "goals", goals(known))
    for name, part in known.items():
        pictures = list(PARTS[name][2](part["data"])) if PARTS[name][2] else []
        for file, svg in pictures:
            (FOLDER / f"{file}.svg").write_text(svg)
        links = "".join(f"![{file}](performance/{file}.svg)\n\n" for file, _ in pictures)
        text = replace(text, name, links + section(name, part))
    PAGE.write_text(text)
