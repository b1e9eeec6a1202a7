# One image for the exporter, config_rollback and the example services; the command says which.
ARG BASE=python:3.13.5-slim-bookworm

FROM ${BASE} AS build
# Two builds hold the same bytes: compiled files name a checksum of their source and not its time, and all files one time.
ENV SOURCE_DATE_EPOCH=1767225600
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# Two environments: the builder's pip and hatchling stay behind, the image gets what runs.
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement requirements-build.lock \
 && python3 -m venv --without-pip /opt/driftback \
 && /opt/build/bin/pip --python /opt/driftback/bin/python install --no-cache-dir \
    --only-binary :all: --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY exporter exporter
COPY config_rollback config_rollback
COPY driftback_server driftback_server
COPY rules rules
COPY prometheus prometheus
COPY grafana grafana
COPY examples examples
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist ./client . \
 && /opt/build/bin/pip --python /opt/driftback/bin/python install --no-deps --no-index /dist/*.whl \
 && find /opt/driftback -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM ${BASE}
# A fixed id, so that volumes keep their owner from one image to the next.
RUN groupadd --gid 10001 driftback \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/driftback driftback \
 && install -d -o driftback -g driftback /var/lib/driftback
COPY --from=build /opt/driftback /opt/driftback
ENV PATH=/opt/driftback/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/driftback
VOLUME /var/lib/driftback
# The compose file names the command and the health check of each service.
CMD ["driftback", "--help"]
