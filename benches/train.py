#!/usr/bin/env python3
"""What an instrumented asidecar is to be good at: hits of several sizes, misses, what is not stored, and Redis.

  benches/train.py PROGRAM

For scripts/train.sh. It measures nothing; the program writes its counts when it is stopped.
"""
import pathlib
import sys

from suite import load, servers


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    with servers.Stage([]) as stage:
        stage.origin()
        alone = stage.asidecar("alone", program=program)
        ways = [alone]
        if servers.find("redis-server") or (servers.RELEASE.parent / "tools/redis-server").exists():
            url = f'redis = "redis://127.0.0.1:{stage.redis().port}/0"'
            ways.append(stage.asidecar("before Redis", program=program, memory="0", more=url))
        for server in ways:
            for path, requests in (("/b/1024/{}", 100_000), ("/b/16384/{}", 20_000), ("/u/1024/{}", 20_000)):
                load.run(stage, server.port, path, keys=1000, count=requests, seconds=60, connections=64)
            load.run(stage, server.port, "/b/1024/{}", first=10_000, keys=20_000, count=20_000, seconds=60, connections=64)


if __name__ == "__main__":
    main()
