# An image for CPUs, NVIDIA GPUs (ACCELERATOR=cuda) or TPUs (ACCELERATOR=tpu):
#
#   docker build --build-arg=ACCELERATOR=cuda --tag=lightningdit .
#   docker run --gpus=all --shm-size=8g --volume=/data:/data lightningdit \
#       --config=dit_xl --workdir=/data/runs/dit_xl --config.data.path=/data/latents
#
# On a TPU's host it is --privileged --net=host in place of --gpus=all.
# What all of them need is taken by SHA-256. An accelerator's own packages come from constraints.txt,
# which has versions alone.
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /lightningdit_jax

COPY requirements-build.txt requirements.txt ./
RUN pip install --require-hashes -r requirements-build.txt \
    && pip install --require-hashes --no-build-isolation -r requirements.txt

COPY . .
ARG ACCELERATOR=cpu
RUN case "$ACCELERATOR" in \
        cpu) pip install --no-deps --no-build-isolation -e . ;; \
        cuda | tpu) pip install --no-build-isolation -c constraints.txt -e ".[gcs,$ACCELERATOR]" ;; \
        *) echo "ACCELERATOR is '$ACCELERATOR'; expected cpu, cuda or tpu" >&2; exit 2 ;; \
    esac

# As the first process, Python itself gets the SIGTERM of `docker stop`; saving may take its time:
# docker stop --time=120.
ENTRYPOINT ["python", "main.py"]
