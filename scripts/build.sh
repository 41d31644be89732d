#!/bin/sh
# Builds asidecar as it is shipped, into target/pgo/release/asidecar: laid out by a profile in benches/pgo of what hits,
# misses and uncacheable requests go through. It takes as long as any build. A profile is for one version of rustc, whose
# name it bears; with another the build is a plain one, which is said. scripts/train.sh makes a profile.
set -eu
cd "$(dirname "$0")/.."
say() { echo "# $*" >&2; }

target=${CARGO_TARGET_DIR:-target}
version=$(rustc -V | cut -d ' ' -f 2)
profile=$PWD/benches/pgo/$version.profdata
if [ -e "$profile" ]; then
    # A function that has changed since then is built without one, silently.
    RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-use=$profile -Cllvm-args=-no-pgo-warn-mismatch"
    export RUSTFLAGS
else
    say "benches/pgo has no profile for rustc $version: this is a plain build (make profile makes one)"
fi
CARGO_TARGET_DIR=$target/pgo cargo build --release --locked --bin asidecar
say "built: $target/pgo/release/asidecar"
