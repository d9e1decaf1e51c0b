# A GPU image: vLLM with CUDA, as its project publishes it, and dynamo-tasks on top.
#
#   docker build -f docker/vllm.Dockerfile -t dynamo-tasks-vllm .
#
# Its version is one that pyproject.toml allows for the extra vllm.
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM}

COPY pyproject.toml README.md LICENSE /opt/dynamo-tasks/
COPY dynamo_tasks /opt/dynamo-tasks/dynamo_tasks
# What vLLM pinned stays as it is: without its own line pip could take another torch.
RUN pip freeze > /tmp/all.txt \
    && grep -iE '^(torch|vllm|transformers|numpy)==' /tmp/all.txt > /tmp/kept.txt \
    && pip install --no-cache-dir --constraint /tmp/kept.txt /opt/dynamo-tasks \
    && rm -rf /opt/dynamo-tasks /tmp/all.txt /tmp/kept.txt \
    && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/dynamo-tasks --shell /usr/sbin/nologin dynamo

USER 10001:10001
WORKDIR /var/lib/dynamo-tasks
ENV DYNAMO_HOME=/var/lib/dynamo-tasks/home \
    PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["celery", "-A", "dynamo_tasks", "worker", "--service=dynamo_tasks.services.agg:Worker", "--loglevel=info"]
