"""Kubernetes: the script in a ConfigMap, a volume for its run, and a Job."""

from __future__ import annotations

from typing import Any

from carl_bundle.backends.protocol import RESUMABLE
from carl_bundle.errors import UsageError
from carl_bundle.launch.spec import GRACE, IMAGE, LaunchSpec
from carl_bundle.launch.text import as_yaml

LARGEST = 1 << 20
"""Bytes that a ConfigMap may hold."""

SECRET = "carl-secrets"
ERRORS = [1, 2, 3, 4]
"""Exit codes that another attempt would not change: verdicts, usage, credentials."""


def k8s(spec: LaunchSpec, name: str) -> str:
    """The documents of the file `name`.

    Raises:
        UsageError: It needs several machines, local data or a sandbox, or the script
            is too large.
    """
    spec.on_one_machine("a Job of Kubernetes")
    _check(spec)
    where = "/work" if not spec.run_dir.startswith("/") else spec.run_dir
    script, runs = f"{spec.label}-script", f"{spec.label}-runs"
    secret = f"kubectl create secret generic {SECRET} --from-env-file=carl.env"
    lines = [f"{secret}   # NAME=value: {', '.join(spec.secrets)}"] * bool(spec.secrets)
    lines += [f"kubectl apply --server-side --filename={name}"]
    lines += [f"kubectl logs --follow job/{spec.label}"]
    config = {
        **_head("v1", "ConfigMap", script),
        "data": {spec.script: spec.text},
    }
    claim = {
        **_head("v1", "PersistentVolumeClaim", runs),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "100Gi"}},
        },
    }
    volumes = {
        "script": ({"configMap": {"name": script}}, "/carl"),
        "runs": ({"persistentVolumeClaim": {"claimName": runs}}, where),
        "memory": ({"emptyDir": {"medium": "Memory"}}, "/dev/shm"),
    }
    job = {**_head("batch/v1", "Job", spec.label), "spec": _job(spec, volumes)}
    return as_yaml("\n".join(lines), config, claim, job)


def _check(spec: LaunchSpec) -> None:
    """Raise UsageError for what a pod made of one ConfigMap cannot run."""
    if spec.data:
        raise UsageError(
            f"a pod does not see {', '.join(spec.data)}",
            remedy="name data on the hub, or by a path on a volume of yours",
        )
    if spec.sandbox:
        raise UsageError(
            "a pod can run no sandbox, and the spec has an environment that needs one",
            remedy="use --emit docker, sbatch or sky",
        )
    size = len(spec.text.encode())
    if size > LARGEST:
        raise UsageError(
            f"the script has {size} bytes, and a ConfigMap holds {LARGEST}",
            remedy="shorten code of your own, or use --emit docker",
        )


def _head(version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _job(spec: LaunchSpec, volumes: dict[str, Any]) -> dict[str, Any]:
    """A Job that goes on from its checkpoint wherever its pod is ended."""
    limit = {"activeDeadlineSeconds": round(spec.limit)} if spec.limit else {}
    gpus = {"nvidia.com/gpu": spec.gpus} if spec.gpus else {}
    kind = {"nvidia.com/gpu.product": spec.gpu} if spec.gpu else {}
    container = {
        "name": "train",
        "image": IMAGE,
        "command": ["uv", "run", f"/carl/{spec.script}"],
        "workingDir": "/work",
        "env": [_secret(one) for one in spec.secrets],
        "resources": {"limits": gpus},
        "volumeMounts": [
            {"name": one, "mountPath": path} for one, (_, path) in volumes.items()
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "nodeSelector": kind,
        "containers": [{key: one for key, one in container.items() if one}],
        "volumes": [{"name": one, **what} for one, (what, _) in volumes.items()],
    }
    again = {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return {
        "backoffLimit": 3,
        **limit,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onExitCodes": _codes(RESUMABLE)},
                {"action": "Ignore", **again},
                {"action": "FailJob", "onExitCodes": _codes(*ERRORS)},
            ]
        },
        "template": {"spec": {key: one for key, one in pod.items() if one}},
    }


def _codes(*values: int) -> dict[str, Any]:
    return {"operator": "In", "values": list(values)}


def _secret(name: str) -> dict[str, Any]:
    """A variable whose value the cluster keeps; without it the script starts, too."""
    key = {"name": SECRET, "key": name, "optional": True}
    return {"name": name, "valueFrom": {"secretKeyRef": key}}
