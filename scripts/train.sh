#!/usr/bin/env bash
# Makes the profile that scripts/build.sh builds by, for the rustc in use: a build that counts, and a short run of
# hits, misses, uncacheable requests and, where there is a redis-server, Redis. Some five minutes on two processors.
#
# Needs rustup (for its llvm-tools component, which it installs for the toolchain in use) and python3. All traffic stays on 127.0.0.1,
# all that is started is stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
counts=$target/pgo/counts
profile=benches/pgo/$(rustc -V | cut -d ' ' -f 2).profdata

have rustup || fail "rustup is needed, for llvm-profdata: https://rustup.rs"
find_profdata() { find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata | head -n 1; }
profdata=$(find_profdata)
if [ -z "$profdata" ]; then
  say "==> installing rustup's component llvm-tools"
  rustup component add llvm-tools >&2
  profdata=$(find_profdata)
fi
[ -n "$profdata" ] || fail "llvm-profdata is not in $(rustc --print sysroot)"

say "==> 1 of 3: the load and an origin"
cargo build --release --locked --example bare --example load
say "==> 2 of 3: asidecar, with counters"
rm -rf "$counts"
RUSTFLAGS="-Cprofile-generate=$counts" CARGO_TARGET_DIR="$target/pgo/counting" cargo build --release --locked --bin asidecar
say "==> 3 of 3: a run to count"
python3 benches/train.py "$target/pgo/counting/release/asidecar"
# Sparse: what was never called is left out, a tenth of the size.
"$profdata" merge -sparse -o "$profile" "$counts"
say "made: $profile"
