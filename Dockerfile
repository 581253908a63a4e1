# Agent, ExaBGP, nft and CNI plugins on as little of Debian as they need: no shell, no package manager.
# Debian 12 and its nftables 1.0.6 on purpose: sets that libnftables 1.1 has made crash the nft of a node with 1.0.
# `make image` builds it. The same commit, base images and Debian archive give the same bytes.
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim
ARG GO_IMAGE=docker.io/library/golang:1.26-bookworm

# Where it is built, for the machine that the image is for: Go needs no emulator
FROM --platform=${BUILDPLATFORM} ${GO_IMAGE} AS plugins
LABEL dev.tortie.stage=plugins
WORKDIR /src
COPY image/cni-plugins/ image/cni-plugins/
COPY pyproject.toml ./
COPY scripts/cni scripts/
COPY cni/ cni/
ARG TARGETARCH
RUN GOARCH=$TARGETARCH scripts/cni build

# Named, since podman 4 goes on with the platform of the stage before
FROM --platform=${TARGETPLATFORM} ${DEBIAN_IMAGE} AS build
LABEL dev.tortie.stage=build
# Empty, or a moment of snapshot.debian.org such as 20261101T000000Z: packages as they were then
ARG DEBIAN_SNAPSHOT=
RUN if [ -n "$DEBIAN_SNAPSHOT" ]; then \
      printf 'deb [check-valid-until=no] http://snapshot.debian.org/archive/%s %s main\n' \
        "debian/$DEBIAN_SNAPSHOT" bookworm "debian/$DEBIAN_SNAPSHOT" bookworm-updates \
        "debian-security/$DEBIAN_SNAPSHOT" bookworm-security >/etc/apt/sources.list && rm -f /etc/apt/sources.list.d/*; \
    fi && apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends binutils python3 python3-venv
WORKDIR /src
RUN python3 -m venv /opt/build && /usr/bin/python3.11 -m venv --without-pip /opt/tortie
COPY requirements/ requirements/
RUN /opt/build/bin/pip --python /opt/tortie/bin/python install --quiet --no-cache-dir --no-compile --no-deps \
      --only-binary :all: --require-hashes -r requirements/run.lock
RUN grep -A3 -E '^(hatchling|packaging|pathspec|pluggy|trove-classifiers)==' requirements/dev.lock \
      | grep -E '^[a-z-]+==|--hash' >/opt/build/backend.lock \
    && /opt/build/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes -r /opt/build/backend.lock
COPY pyproject.toml README.md LICENSE ./
COPY agent/ agent/
COPY bgp/ bgp/
COPY felix/ felix/
COPY inet/ inet/
COPY policy/ policy/
# Not before it is needed: what comes before it is not made anew for every commit
ARG SOURCE_DATE_EPOCH
RUN /opt/build/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /opt/build/wheels . \
    && /opt/build/bin/pip --python /opt/tortie/bin/python install --quiet --no-cache-dir --no-compile --no-deps \
      --no-index /opt/build/wheels/tortie-*.whl
COPY image/packages image/pruned image/rootfs image/
RUN image/rootfs image/packages image/pruned /rootfs
COPY --from=plugins /src/cni/bin/ /rootfs/opt/cni/bin/

FROM scratch
COPY --from=build /rootfs/ /
ENV PATH=/opt/tortie/bin:/usr/sbin:/usr/bin LANG=C.UTF-8
ENTRYPOINT ["/opt/tortie/bin/tortie"]
LABEL org.opencontainers.image.title="tortie" \
      org.opencontainers.image.description="Kubernetes node networking without an overlay" \
      org.opencontainers.image.licenses="Apache-2.0"
