# Two images from one file:
#
#   docker build -t asidecar .                                   the proxy (the default target)
#   docker build -t asidecar-upstream --target upstream .        the slow example API
#   docker run --rm -p 127.0.0.1:8080:8080 -e ASIDECAR_UPSTREAM__URL=http://host.docker.internal:9000 asidecar
#
# The dependencies have a layer of their own: it is built again only when Cargo.toml, Cargo.lock or the profile change.

# With its patch release: benches/pgo has a profile for this one.
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

# ---- dependencies: the manifests with empty sources --------------------------------------------------------------
FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS dependencies
WORKDIR /build
ENV CARGO_TERM_COLOR=always CARGO_INCREMENTAL=0
COPY Cargo.toml Cargo.lock ./
COPY scripts/build.sh scripts/
COPY benches/pgo benches/pgo
# Cargo wants a file for every target that the manifest names: give it an empty one, so that the real ones, which
# change often, stay out of this layer. The benchmarks and tests keep theirs: nothing here builds them.
RUN set -eu; \
    awk -F '"' '/^\[/ { kind = $0; sub(/[ \t]*(#.*)?$/, "", kind) } \
      /^(name|path)[ \t]*=/ { \
        folder["[[bench]]"] = "benches"; folder["[[test]]"] = "tests"; folder["[[example]]"] = "examples"; folder["[[bin]]"] = "src/bin"; \
        if (kind ~ /^\[\[/ || (kind == "[lib]" && $1 ~ /^path/)) print ($1 ~ /^path/ ? $2 : folder[kind] "/" $2 ".rs") }' Cargo.toml > /tmp/targets; \
    for file in src/main.rs src/lib.rs examples/upstream/main.rs $(cat /tmp/targets); do \
      mkdir -p "$(dirname "$file")"; echo 'fn main() {}' > "$file"; \
    done; \
    : > src/lib.rs; \
    # A dummy "examples/upstream.rs" beside "examples/upstream/main.rs" would be two targets of one name.
    rm -rf examples/upstream.rs examples/bare.rs src/bin
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    # Cargo builds all anew for a profile that is younger, as it may seem to be below, where it is copied once more.
    touch -d @0 benches/pgo/* \
    && scripts/build.sh \
    # What was built from the empty sources goes: theirs may be the younger files, and Cargo compares by time.
    && cargo clean --release --locked --target-dir target/pgo --package asidecar \
    && rm -rf src examples build.rs

# ---- build: the proxy --------------------------------------------------------------------------------------------
FROM dependencies AS build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    touch -d @0 benches/pgo/* \
    && scripts/build.sh \
    && install -D -m 0755 target/pgo/release/asidecar /out/asidecar
# Listens on every address of the container, as -p needs it; the admin listener stays on the container's loopback.
RUN printf '%s\n' \
      '# The default of the image: mount your own file over it, or set ASIDECAR_UPSTREAM__URL and its kin.' \
      '[listen]' \
      'proxy = "0.0.0.0:8080"' \
      > /out/asidecar.toml

# ---- build: the example upstream (with the development dependencies, hence apart) --------------------------------
FROM dependencies AS build-upstream
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    cargo build --release --locked --example upstream \
    && install -D -m 0755 target/release/examples/upstream /out/upstream

# ---- run ---------------------------------------------------------------------------------------------------------
# Debian's slim image: the C library of the build stage, one publisher for all bases, and a shell for whoever has to
# look into a running pod. Distroless would save some 50 MB, and that shell.
FROM debian:12-slim AS base
# The certificate authorities for https upstreams and rediss://, from the build image: no package manager runs here.
COPY --from=dependencies /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE /usr/share/doc/asidecar/LICENSE
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# By number, so that Kubernetes' runAsNonRoot can see that it isn't root.
USER 65532:65532
WORKDIR /

FROM base AS upstream
LABEL org.opencontainers.image.title="asidecar-upstream" \
      org.opencontainers.image.description="A small slow HTTP API to try asidecar with" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-upstream /out/upstream /usr/local/bin/upstream
EXPOSE 9000
ENTRYPOINT ["upstream"]
CMD ["--listen", "0.0.0.0:9000", "--delay", "300ms"]

FROM base AS asidecar
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="asidecar" \
      org.opencontainers.image.description="A reverse caching proxy sidecar: the cache-aside pattern for any HTTP API, without a line of code in it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="debian:12-slim"
# Every command of the binary reads this file, the health check too, unless --config names another one.
ENV ASIDECAR_CONFIG=/etc/asidecar/asidecar.toml
COPY --from=build /out/asidecar.toml /etc/asidecar/asidecar.toml
COPY --from=build /out/asidecar /usr/local/bin/asidecar
# 8080 is the proxy; 9901 is the admin listener, which only answers others once the configuration lets it.
EXPOSE 8080 9901
# The binary asks the admin listener that the configuration names.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["asidecar", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["asidecar"]
CMD ["run"]
