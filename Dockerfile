# The agent's image: one static program, one real iproute2, no shell, no package manager.
#
#   make image                 with docker, podman or buildah, and a registry that has the base images
#   make image-local           without any registry: base images made from Debian's packages and this machine's Rust
#
# The glibc target, because `crt-static` gives a program that runs on any kernel and needs no musl toolchain.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY hack/build-static hack/check-static hack/licences ./hack/
# The dependencies alone first, so that a change of our code does not build them again.
COPY hack/stub-sources ./hack/
RUN sh hack/stub-sources && sh hack/build-static && rm -rf src examples tests benches
COPY src ./src
RUN touch src/*.rs \
 && binary=$(sh hack/build-static) \
 && sh hack/check-static "$binary" \
 && mkdir -p /out/usr/bin /out/usr/share/doc/egress-routes /out/etc/egress-routes \
 && cp "$binary" /out/usr/bin/egress-routes \
 && sh hack/licences > /out/usr/share/doc/egress-routes/THIRD-PARTY
COPY LICENSE /out/usr/share/doc/egress-routes/copyright

# Debian 13's iproute2: before 6.2, `ip -batch` kept about 4 KiB per line until its end.
FROM debian:trixie-slim AS iproute2
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends iproute2
COPY hack/collect-ip /
RUN sh /collect-ip /out

FROM scratch
LABEL org.opencontainers.image.title="egress-routes" \
      org.opencontainers.image.description="Keeps every Kubernetes node's egress routes equal to a ConfigMap" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=iproute2 /out /
COPY --from=build /out /
ENV PATH=/usr/bin
# Not an ordinary user: `ip` drops ambient and file capabilities for anybody but uid 0. The manifest drops all but two.
USER 0:0
ENTRYPOINT ["/usr/bin/egress-routes"]
CMD ["run"]
