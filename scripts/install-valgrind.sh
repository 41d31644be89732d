#!/usr/bin/env bash
# Instructions are counted by valgrind, and the program that counts is Python: this makes sure that both are here.
# It installs them through the system's package manager when they are missing, and says so.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! have python3; then
  say "==> python3 is missing; benches/counts.py needs it"
  install_package python3 python3 python3 python3 python python3 python
fi
if ! have valgrind; then
  say "==> valgrind is missing; benches/counts.py counts with it"
  install_package valgrind valgrind valgrind valgrind valgrind valgrind valgrind
fi
have valgrind || fail "the package was installed, but valgrind is not on PATH ($PATH)"
# On a system or a processor that it does not know it starts nothing: better said before the builds.
valgrind --quiet --tool=none true || fail "valgrind is here, but cannot run a program (see above)"
say "==> valgrind is here: $(valgrind --version)"
