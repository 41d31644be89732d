# shellcheck shell=bash
# What the scripts share: speaking, failing, and installing through the system's package manager.
# Sourced, never run:  . "$(dirname "$0")/lib.sh"

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # the scripts use it
tools=${CARGO_TARGET_DIR:-$repo/target}/tools

say() { printf '%s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Debian and its kin start a service as soon as it is installed. Whoever wants a program for tests wants no server on
# port 6379: a policy-rc.d that says 101 ("not allowed") for the time of the installation prevents it.
readonly policy=/usr/sbin/policy-rc.d

# need_root COMMAND…: a clear error, with what to run as root, for who is not root and has no sudo.
need_root() {
  [ "$(id -u)" -eq 0 ] || have sudo || fail "this wants root, you are not, and there is no sudo. As root, run

           $*

       then start this again."
}

# as_root COMMAND…: as it is for root, by sudo for anybody else.
as_root() {
  need_root "$@"
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_install PACKAGE…: without starting any service that comes with it.
apt_install() {
  need_root apt-get install -y "$@"
  # What follows runs as root in one go, so that the policy is taken away again whatever happens.
  # shellcheck disable=SC2016
  as_root env DEBIAN_FRONTEND=noninteractive bash -euc '
    policy=$1; shift
    if [ ! -e "$policy" ]; then
      printf "#!/bin/sh\nexit 101\n" >"$policy"; chmod 755 "$policy"
      trap "rm -f \"$policy\"" EXIT
    fi
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 || {
      echo "       (the package lists are missing or old: apt-get update)" >&2
      apt-get update -qq
      apt-get install -y --no-install-recommends "$@" >/dev/null
    }
  ' bash "$policy" "$@"
}

# install_package COMMAND APT DNF APK PACMAN ZYPPER BREW: the package that brings COMMAND, by each manager's name.
install_package() {
  local command=$1 apt=$2 dnf=$3 apk=$4 pacman=$5 zypper=$6 brew=$7
  if have apt-get; then
    say "==> installing $apt by apt-get (its service is not started)"
    apt_install "$apt"
  elif have dnf; then
    say "==> installing $dnf by dnf"
    as_root dnf install -y -q "$dnf" >&2
  elif have apk; then
    say "==> installing $apk by apk"
    as_root apk add --quiet "$apk" >&2
  elif have pacman; then
    say "==> installing $pacman by pacman"
    as_root pacman -S --noconfirm --needed "$pacman" >&2
  elif have zypper; then
    say "==> installing $zypper by zypper"
    as_root zypper --quiet --non-interactive install "$zypper" >&2
  elif have brew; then
    say "==> installing $brew by brew"
    brew install --quiet "$brew" >&2
  else
    fail "$command is missing, and no package manager known here (apt-get, dnf, apk, pacman, zypper, brew) is either.
       Install $command so that it is found on PATH, then start this again."
  fi
}
