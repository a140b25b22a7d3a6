# mad_lightning without a compiler: all it needs comes as wheels, or (normflows) as plain Python.
#   docker build -t mad .
#   docker run --rm -v "$PWD:/work" mad configs --copy digits_diffusion_full_synth
#   docker run --rm --gpus all -v "$PWD:/work" mad train --config digits_diffusion_full_synth.yaml
FROM python:3.12-slim

COPY pyproject.toml README.md LICENSE /package/
COPY mad_lightning /package/mad_lightning
COPY configs /package/configs
RUN pip install --no-cache-dir --only-binary=:all: "setuptools>=77" \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /package \
    && pip install --no-cache-dir --only-binary=:all: --no-binary=normflows /wheels/*.whl \
    && rm -rf /package /wheels

# Lineages belong to whoever starts the container: docker run --user "$(id -u):$(id -g)"
ENV HOME=/tmp WANDB_SILENT=true
WORKDIR /work
ENTRYPOINT ["mad"]
CMD ["--help"]
