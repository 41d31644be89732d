#!/usr/bin/env bash
# The servers that the benchmarks compare with, by the system's package manager: `make bench-peers`, or benches/run.py --install.
# Nothing runs this by itself. Their services are neither started nor enabled: the benchmarks start their own, on free ports.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Debian keeps daemons where not everybody's PATH leads.
export PATH=$PATH:/usr/sbin:/usr/local/sbin

missing=()
peer() { # peer COMMAND PACKAGE: the package has the same name everywhere, and its service too
  local command=$1 package=$2
  if have "$command"; then
    say "==> $package is here"
    return
  fi
  say "==> $package is missing"
  if ! install_package "$command" "$package" "$package" "$package" "$package" "$package" "$package" || ! have "$command"; then
    say "==> $package could not be installed; the benchmarks leave it out"
    missing+=("$package")
    return
  fi
  if have systemctl; then
    as_root systemctl disable --quiet --now "$package.service" 2>/dev/null || true
  fi
  say "==> installed $package (not started, not enabled)"
}
peer nginx nginx
peer haproxy haproxy
peer varnishd varnish
peer traffic_server trafficserver
peer squid squid
[ "${#missing[@]}" -eq 0 ] || say "==> missing: ${missing[*]}"
