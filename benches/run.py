#!/usr/bin/env python3
"""The benchmarks of asidecar, beside nginx, HAProxy, Varnish, Traffic Server, Squid and a bare hyper server.

  benches/run.py                          all parts: some half an hour
  benches/run.py hits stampede --quick    two of them, shorter and rougher
  benches/run.py --long                   with half an hour of churn and 5,000,000 keys (8 GiB of memory)
  benches/run.py --write                  also writes docs/performance.md, its charts, and docs/performance/results.json

The server has one processor and the load another; all traffic stays on 127.0.0.1; all that was started is stopped.
Progress goes to stderr, tables to stdout. It reports, and fails only where it can't measure. Needs Linux, wrk,
redis-server, `make build` and `cargo build --release --bin asidecar --example bare --example load`, which `make bench` sees to.
Peers that are not installed are left out; --install installs them by the system's package manager.
"""
import argparse
import json
import resource
import signal
import subprocess
import sys

from suite import measure, report, servers


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of: " + ", ".join(measure.PARTS))
    parser.add_argument("--rounds", type=int, help="how often each is measured; medians are told (3; quick: 1)")
    parser.add_argument("--seconds", type=int, help="of each measurement (4; quick: 1)")
    parser.add_argument("--sizes", default="1024,16384,262144", help="of the bodies of hits (%(default)s)")
    parser.add_argument("--peers", default=",".join(servers.PEERS), help="(%(default)s)")
    parser.add_argument("--entries", type=int, help="for the memory of an entry (200000; quick: 50000)")
    parser.add_argument("--churn", type=int, help="seconds (60; quick: 10; long: 1800)")
    parser.add_argument("--churn-store", type=int, default=256, help="MiB (%(default)s)")
    parser.add_argument("--clients", type=int, default=1000, help="of a stampede (%(default)s)")
    parser.add_argument("--rate", type=int, default=1000, help="requests a second where latency counts (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--long", action="store_true", help="what takes long too")
    parser.add_argument("--install", action="store_true", help="install missing peers first")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--json", action="store_true", help="JSON on stdout in place of tables")
    options = parser.parse_args()
    for part in options.parts:
        if part not in measure.PARTS:
            parser.error(f"there is no part {part!r}: {', '.join(measure.PARTS)}")
    for name, usual, quick, long in (("rounds", 3, 1, 3), ("seconds", 4, 1, 4), ("entries", 200_000, 50_000, 1_000_000),
                                     ("churn", 60, 10, 1800)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else long if options.long else usual)
    options.sizes = [int(s) for s in options.sizes.split(",")]
    options.peers = [p for p in options.peers.split(",") if p]
    for peer in options.peers:
        if peer not in servers.PEERS:
            parser.error(f"there is no peer {peer!r}: {', '.join(servers.PEERS)}")
    return options


def terminated(*_):
    raise SystemExit(143)


def main():
    options = arguments()
    if options.install:
        subprocess.run([servers.ROOT / "scripts/install-bench-peers.sh"], check=True)
    for program in ("wrk", "taskset", "redis-server"):
        if not servers.find(program) and not (servers.RELEASE.parent / "tools" / program).exists():
            sys.exit(f"{program} is missing: scripts/install-bench-tools.sh installs it")
    for file in (servers.SHIPPED, servers.PLAIN, servers.RELEASE / "examples/bare", servers.RELEASE / "examples/load"):
        if not file.exists():
            sys.exit(f"{file} is missing: make bench builds it")
    for peer in list(options.peers):
        if not servers.find(servers.PEERS[peer][0]):
            measure.say(f"{peer} is not installed and left out; --install or `make bench-peers` installs it")
            options.peers.remove(peer)
    # However it is ended, it ends what it started; a shell may have had it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminated)
    # Very many connections are opened here; children have the same limit. Root may raise the hard one too.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((32_768, max(hard, 32_768)), (min(hard, 32_768), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            break
        except (OSError, ValueError):
            continue
    results = {}
    for name in measure.PARTS:
        if options.parts and name not in options.parts:
            continue
        measure.say(f"=== {name}: {measure.PARTS[name].__doc__}")
        busy = measure.busy()
        if busy > 0.05:
            measure.say(f"other work keeps the processors {busy:.0%} busy: figures will be worse for it")
        try:
            data = measure.PARTS[name](options)
        except servers.Failed as e:
            measure.say(f"{name} is left out: {e}")
            continue
        results[name] = report.wrap({"rounds": options.rounds, "seconds": options.seconds}, data, options.peers,
                                    max(busy, measure.busy()))
        if options.write:
            report.write(results)
    print(json.dumps(results, indent=1) if options.json else report.markdown(results))
    return 0 if results else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
