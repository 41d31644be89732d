#!/usr/bin/env bash
# What `make bench` needs besides the proxy: wrk, redis-server, python3 and taskset, by the system's package manager where
# they are missing, and said so. The servers it compares with are for scripts/install-bench-peers.sh, which runs when asked.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$repo/scripts/install-test-tools.sh"

need() { # need COMMAND APT DNF APK PACMAN ZYPPER BREW
  if have "$1"; then
    say "==> $1 is here"
    return
  fi
  say "==> $1 is missing; the benchmarks need it"
  install_package "$@"
  have "$1" || fail "the package was installed, but $1 is not on PATH ($PATH)"
}
need wrk wrk wrk wrk wrk wrk wrk
need python3 python3 python3 python3 python python3 python
need taskset util-linux util-linux util-linux-misc util-linux util-linux util-linux

python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "python3 here is older than 3.9, which the benchmarks need"
