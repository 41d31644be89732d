#!/usr/bin/env bash
# Prints the path of promtool, which checks Prometheus' configuration and rules. When it is missing, it is taken out of
# Debian's prometheus package into target/tools: nothing is installed, no service starts, root is not needed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if have promtool; then command -v promtool; exit 0; fi
if [ -x "$tools/promtool" ]; then echo "$tools/promtool"; exit 0; fi

if ! have apt-get || ! have dpkg-deb; then
  fail "promtool is missing, and there is no apt-get to fetch it with.
       Install Prometheus' tools so that promtool is on PATH (dnf, apk and brew: prometheus), then start this again."
fi

say "==> promtool is missing: taking it out of Debian's prometheus package, into $tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# The sandbox user of apt can't write here, and root needs none to fetch one signed package.
download() { apt-get -q -o APT::Sandbox::User=root "$@" download prometheus >"$work/log" 2>&1; }
if ! download; then
  # No package lists (a slim image) or old ones: fetch them into a folder of our own.
  mkdir -p lists/partial cache/archives/partial
  own=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache")
  apt-get -qq -o APT::Sandbox::User=root "${own[@]}" update || fail "apt-get could not fetch the package lists"
  download "${own[@]}" || { cat "$work/log" >&2; fail "apt-get could not fetch the package prometheus"; }
fi
mkdir -p "$tools"
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -f - ./usr/bin/promtool
install -m 0755 usr/bin/promtool "$tools/promtool"
"$tools/promtool" --version >/dev/null 2>&1 || fail "$tools/promtool does not run here"
echo "$tools/promtool"
