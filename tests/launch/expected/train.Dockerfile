# In the folder of train.py:
#   docker build --tag my-run --file train.Dockerfile .
#   docker run --rm --init --stop-timeout=90 --gpus=2 --ipc=host --env=HF_TOKEN --env=WANDB_API_KEY --security-opt=seccomp=unconfined --security-opt=apparmor=unconfined --security-opt=systempaths=unconfined --volume="$PWD"/runs/My_run:/work/runs/My_run my-run
FROM ghcr.io/astral-sh/uv:python3.12-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap
WORKDIR /work
COPY ["train.py", "./train.py"]
COPY ["my rows.jsonl", "./my rows.jsonl"]
RUN uv sync --script train.py
ENTRYPOINT ["timeout", "--foreground", "--signal=TERM", "--kill-after=90", "28800", "uv", "run", "train.py"]
