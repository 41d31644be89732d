#!/usr/bin/env bash
# What `make conformance` needs besides the proxy: node by the system's package manager, and the public HTTP cache tests from
# npm in target/conformance. What is here already is left as it is, and what is missing is fetched, and said so.
#
# The suite's package.json asks for npm 6 and for what its web pages are made with. Its tests use node-fetch alone, so that
# is all that is fetched beside it. npm only brings the archives: it installs nothing, no script of theirs runs, and each must
# be what it was when its checksum was written down here. CACHE_TESTS_DIR names another checkout of the suite instead.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

home=${CARGO_TARGET_DIR:-$repo/target}/conformance
node_at_least=18 # what our own script uses

# FOLDER PACKAGE@VERSION CHECKSUM. The suite finds the others because node looks in the parent's node_modules too.
pins="\
suite http-cache-tests@0.4.5 sha512-DjuwN9nUZXLTW+wav1LRESCZNVxl8SshwOy4z1pxuWbWt5/ay6sM9QQ1lebBaDO6P1IMBoK6mdf+PuVP/QNL8A==
node_modules/node-fetch node-fetch@2.7.0 sha512-c4FRfUm/dbcWZ7U+1Wq0AwCyFL+3nt2bEw05wfxSz+DWpWsitgmSgYmy2dQdWyKC1694ELPqMs/YzUSNozLt8A==
node_modules/whatwg-url whatwg-url@5.0.0 sha512-saE57nupxk6v3HY35+jzBwYa0rKSy0XR8JSxZPwgLr7ys0IBzhGviA1/TUGJLmSVqs8pb9AnvICXEuOHLprYTw==
node_modules/tr46 tr46@0.0.3 sha512-N3WMsuqV66lT30CrXNbEjx4GEwlow3v6rr4mCcv6prnfwhS01rkgyFdjPNBYd9br7LpXV1+Emh01fHnq2Gdgrw==
node_modules/webidl-conversions webidl-conversions@3.0.1 sha512-2JAn3z8AR6rjK8Sm8orRC0h/bcl/DqL7tRPdGZ4I1CjdF+EaMLmYxBHyXuKL849eucPFhvBoxMsflfOb8kxaeQ=="

if ! have node; then
  say "==> node is missing; the HTTP cache tests are written for it"
  install_package node nodejs nodejs nodejs nodejs nodejs-default node
  have node || fail "the package was installed, but node is not on PATH ($PATH)"
fi
version=$(node --version)
major=${version#v} major=${major%%.*}
[ "$major" -ge "$node_at_least" ] || fail "node here is $version; the tests need $node_at_least or newer on PATH"
say "==> node is here: $version"

if [ -n "${CACHE_TESTS_DIR:-}" ]; then
  [ -f "$CACHE_TESTS_DIR/tests/index.mjs" ] || fail "CACHE_TESTS_DIR=$CACHE_TESTS_DIR has no tests/index.mjs: it should name a checkout of the suite"
  say "==> the tests are those in $CACHE_TESTS_DIR"
  exit 0
fi
if [ -f "$home/pins" ] && [ "$(cat "$home/pins")" = "$pins" ]; then
  say "==> the HTTP cache tests are here: $home/suite"
  exit 0
fi

if ! have npm; then
  say "==> npm is missing; it fetches the HTTP cache tests"
  install_package npm npm npm npm npm npm-default node
  have npm || fail "the package was installed, but npm is not on PATH ($PATH)"
fi
say "==> fetching the HTTP cache tests by npm, into $home"
mkdir -p "$home"
home=$(cd "$home" && pwd) # npm runs in a folder below
work=$(mktemp -d "$home/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2046 # words are what is wanted
(
  cd "$work"
  export npm_config_cache=$work/cache npm_config_update_notifier=false
  export npm_config_fetch_timeout=30000 npm_config_fetch_retries=2 npm_config_fetch_retry_mintimeout=1000 npm_config_fetch_retry_maxtimeout=5000
  npm pack --ignore-scripts $(cut -d' ' -f2 <<<"$pins") >log 2>&1 || { cat log >&2; fail "npm could not fetch them"; }
)
while read -r folder package checksum; do
  archive=$work/${package/@/-}.tgz
  got=sha512-$(node -p 'require("node:crypto").createHash("sha512").update(require("node:fs").readFileSync(process.argv[1])).digest("base64")' "$archive")
  [ "$got" = "$checksum" ] || fail "$package is not what it was: its checksum is $got, not $checksum"
  mkdir -p "$work/new/$folder"
  tar -xzf "$archive" -C "$work/new/$folder" --strip-components=1
done <<<"$pins"
rm -rf "$home/pins" "$home/suite" "$home/node_modules"
mv "$work/new/suite" "$work/new/node_modules" "$home/"
printf '%s\n' "$pins" >"$home/pins" # last: whoever finds it finds the rest
say "==> fetched: $(cut -d' ' -f2 <<<"$pins" | paste -sd' ' -)"
