# A base with the C libraries that Python is linked to, from the base's own distribution: built only where the base lacks
# packages of icosfl_base_packages, and once for a base. The control node's docker needs its mirror then.
ARG BASE
FROM ${BASE}
ARG PACKAGES
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
