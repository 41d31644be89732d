#!/usr/bin/env bash
# What we build on: a lock file that fits, the registry and nothing else as a source, one TLS provider, and licences
# that go with Apache-2.0. With Cargo, awk and the shell alone.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repo"
status=0
wrong() { printf 'error: %s\n' "$*" >&2; status=1; }

# 1. The lock file fits the manifest.
cargo tree --locked --depth 0 >/dev/null || fail "Cargo.lock does not fit Cargo.toml: run cargo check and commit it"
echo "Cargo.lock: up to date"

# 2. No git dependency, no other registry: what cannot be fetched again in five years is not built upon.
odd=$(grep -E '^source = ' Cargo.lock | sort -u | grep -v -E '^source = "registry\+' || true)
[ -z "$odd" ] || wrong "dependencies from elsewhere than a registry: $odd"
count=$(grep -E '^source = "registry' Cargo.lock | sort -u | wc -l)
[ "$count" -le 1 ] || wrong "dependencies from $count registries"
echo "sources: $(grep -c '^name = ' Cargo.lock) packages, one registry, no git"

# 3. One TLS provider. Two in one binary make rustls panic at run time, and OpenSSL would be a second TLS library.
for package in aws-lc-rs aws-lc-sys openssl-sys native-tls; do
  if grep -q "^name = \"$package\"$" Cargo.lock; then
    wrong "$package came in. By whom: cargo tree --target all -i $package"
  fi
done
echo "TLS: ring alone"

# 4. Licences. A package passes if its expression can be met with these; MPL-2.0 is copyleft by the file, and binds
#    only who changes those files.
allowed=" Apache-2.0 MIT MIT-0 BSD-2-Clause BSD-3-Clause ISC Zlib 0BSD BSL-1.0 CC0-1.0 Unlicense Unicode-3.0 Unicode-DFS-2016 CDLA-Permissive-2.0 MPL-2.0 OpenSSL "
meets() { # an SPDX expression, evaluated as arithmetic: 1 for what is allowed, 0 for what is not
  local arithmetic="" word
  # shellcheck disable=SC2013 # words are what is wanted
  for word in $(sed -E 's| WITH |+|g; s|/| OR |g; s|([()])| \1 |g' <<<"$1"); do
    case $word in
      OR) arithmetic+=" ||" ;;
      AND) arithmetic+=" &&" ;;
      "(" | ")") arithmetic+=" $word" ;;
      *) case $allowed in *" ${word%%+*} "*) arithmetic+=" 1" ;; *) arithmetic+=" 0" ;; esac ;;
    esac
  done
  [ -n "$arithmetic" ] && ((arithmetic))
}
packages=$(cargo tree --locked --edges normal,build,dev --prefix none --no-dedupe --format '{p}|{l}' | sort -u)
while IFS='|' read -r package licence; do
  meets "$licence" || wrong "the licence of $package, '${licence:-none given}', is not among the allowed ones"
done <<<"$packages"
echo "licences of $(wc -l <<<"$packages") packages on this platform:"
cut -d'|' -f2 <<<"$packages" | sort | uniq -c | sort -rn | sed 's/^/  /'

# 5. Packages in two versions: worth knowing, seldom ours to mend.
twice=$(cargo tree --locked --duplicates --edges normal --depth 0 --prefix none --format '{p}' | sort -u)
if [ -n "$twice" ]; then
  echo "in more than one version (for information):"
  printf '%s\n' "${twice//$'\n'$'\n'/$'\n'}" | sed '/^$/d; s/^/  /'
else
  echo "no package in more than one version"
fi
exit "$status"
