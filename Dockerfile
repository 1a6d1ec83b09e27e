# cc-relay in a container: the Debian package, in the image of the release that it is made for.
#
#   docker build --tag cc-relay .
#
# compose.yaml shows how to run it.

FROM debian:bookworm-slim AS package
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential debhelper dh-python python3 python3-setuptools \
    && rm -rf /var/lib/apt/lists/*
COPY . /build/cc-relay
RUN cd /build/cc-relay && dpkg-buildpackage -us -uc -b && mv ../cc-relay_*_all.deb /build/cc-relay.deb

FROM debian:bookworm-slim
ENV DEBIAN_FRONTEND=noninteractive
# What the package recommends is named, so that every provider works and nothing else comes along.
RUN --mount=type=bind,from=package,source=/build/cc-relay.deb,target=/tmp/cc-relay.deb \
    apt-get update \
    && apt-get install --yes --no-install-recommends \
        /tmp/cc-relay.deb python3-botocore python3-google-auth python3-prometheus-client python3-requests \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

USER _cc-relay
WORKDIR /var/lib/cc-relay
ENV HOME=/var/lib/cc-relay
EXPOSE 8787
# Python and its libraries take some seconds to load on a slow machine. /health needs no credential.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8787/health', timeout=4)"]
ENTRYPOINT ["twistd3", "--nodaemon", "--pidfile=", "ccrelay"]
CMD ["--config", "/etc/cc-relay.yaml"]
