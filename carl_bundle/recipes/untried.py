"""What of a script was only ever rendered: nobody here could run it."""

from __future__ import annotations

from carl_bundle.spec.train_spec import TrainSpec


def untried(spec: TrainSpec) -> list[str]:
    """The features of a spec that no test runs, as a script names them at its start.

    Graphics cards are not among them: whether there is one, the script sees.
    """
    sampled, attention = spec.sampled, str(spec.model.attention)
    features = {
        "vLLM": sampled is not None and sampled.vllm is not None,
        "DeepSpeed": spec.sharding.startswith("zero"),
        attention: "flash" in attention,
    }
    return [name for name, asked in features.items() if asked]
