#!/usr/bin/env bash
# The tests start servers of their own, on free ports, from the real redis-server: this makes sure that there is one.
# It installs it through the system's package manager when it is missing, and says so. Nothing is left running.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if have redis-server; then
  say "==> redis-server is here: $(redis-server --version | grep -o 'v=[^ ]*' | cut -c3-)"
  exit 0
fi

say "==> redis-server is missing; the tests need it"
install_package redis-server redis-server redis redis redis redis redis

# Fedora and Arch ship Valkey under that name by now.
if ! have redis-server && have valkey-server; then
  mkdir -p "$tools"
  ln -sf "$(command -v valkey-server)" "$tools/redis-server"
  say "==> this system has Valkey instead: linked as $tools/redis-server (make puts it on PATH)"
  exit 0
fi
have redis-server || fail "the package was installed, but redis-server is not on PATH ($PATH)"

# It was installed for tests: it should not start with the machine either.
if have systemctl && have apt-get; then
  as_root systemctl disable --quiet redis-server.service 2>/dev/null || true
fi
say "==> installed redis-server $(redis-server --version | grep -o 'v=[^ ]*' | cut -c3-) (not started, not enabled)"
