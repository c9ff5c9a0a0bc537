# docker build -f deploy/gpu.Dockerfile -t safety-ray:gpu .      (from the checkout; NOT built yet)
# Every package is at the version and hash of requirements/gpu.txt and cloud.txt (for s3:// and gs:// paths).
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
# wget is for KubeRay's probes; Ubuntu 24.04 has Python 3.12, as deploy/cpu.Dockerfile.
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3.12-dev python3-venv wget \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu && useradd --create-home --uid 1000 ray && install -d -o ray -g ray /opt/safety-ray
USER ray
WORKDIR /opt/safety-ray
COPY --chown=ray:ray . .
# No GPU while the image is built, so the kind is named, and the check for a CUDA build of torch is made.
RUN --mount=type=secret,id=pip,target=/home/ray/.config/pip/pip.conf,uid=1000,required=false \
    EXTRA=gpu PYTHON=python3.12 scripts/setup.sh \
    && .venv/bin/python -m pip install --no-deps --require-hashes -r requirements/cloud.txt && rm -rf setup.log ~/.cache
ENV PATH=/opt/safety-ray/.venv/bin:$PATH RAY_AUTH_MODE=token HF_HUB_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0
CMD ["safety-ray", "--help"]
