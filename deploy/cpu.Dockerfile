# docker build -f deploy/cpu.Dockerfile -t safety-ray:cpu .      (from the checkout; NOT built yet)
# Every package is at the version and hash of requirements/cpu.txt and cloud.txt (for s3:// and gs:// paths).
FROM python:3.12-slim
# g++ is for the kernels that torch.compile makes; wget is for KubeRay's probes.
RUN apt-get update && apt-get install -y --no-install-recommends g++ wget && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray && install -d -o ray -g ray /opt/safety-ray
USER ray
WORKDIR /opt/safety-ray
COPY --chown=ray:ray . .
# An index or mirror is a build secret, not part of the image: --secret id=pip,src=$HOME/.config/pip/pip.conf
RUN --mount=type=secret,id=pip,target=/home/ray/.config/pip/pip.conf,uid=1000,required=false \
    EXTRA=cpu PYTHON=python3.12 scripts/setup.sh \
    && .venv/bin/python -m pip install --no-deps --require-hashes -r requirements/cloud.txt && rm -rf setup.log ~/.cache
ENV PATH=/opt/safety-ray/.venv/bin:$PATH RAY_AUTH_MODE=token HF_HUB_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0
CMD ["safety-ray", "--help"]
