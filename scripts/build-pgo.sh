#!/bin/sh
# Builds asidecar with profile-guided optimisation, into target/pgo/release/asidecar: the compiler lays the program out by
# what a short run of hits, misses and uncacheable requests showed. Takes three builds' time, some seven minutes.
#
# Needs rustup (for its llvm-tools component, which it installs for the toolchain in use) and python3. All traffic stays on 127.0.0.1,
# all that is started is stopped.
set -eu
cd "$(dirname "$0")/.."
target=$PWD/${CARGO_TARGET_DIR:-target}
case ${CARGO_TARGET_DIR:-} in /*) target=$CARGO_TARGET_DIR ;; esac
pgo=$target/pgo
say() { echo "# $*" >&2; }

command -v rustup > /dev/null || { say "rustup is needed, for llvm-profdata: https://rustup.rs"; exit 1; }
profdata=$(find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata | head -n 1)
if [ -z "$profdata" ]; then
    say "installing rustup's component llvm-tools"
    rustup component add llvm-tools >&2
    profdata=$(find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata | head -n 1)
fi
[ -n "$profdata" ] || { say "llvm-profdata is not in $(rustc --print sysroot)"; exit 1; }

say "1 of 3: the load and an origin"
cargo build --release --locked --example bare --example load
say "2 of 3: asidecar, with counters"
rm -rf "$pgo/counts"
RUSTFLAGS="-Cprofile-generate=$pgo/counts" CARGO_TARGET_DIR="$pgo/counting" cargo build --release --locked --bin asidecar
say "a run to count"
python3 benches/train.py "$pgo/counting/release/asidecar"
"$profdata" merge -o "$pgo/asidecar.profdata" "$pgo/counts"
say "3 of 3: asidecar, by what was counted"
RUSTFLAGS="-Cprofile-use=$pgo/asidecar.profdata" CARGO_TARGET_DIR="$pgo" cargo build --release --locked --bin asidecar
say "done: $pgo/release/asidecar"
