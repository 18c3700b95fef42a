"""What a GPU is to measure runs without one, too, on shapes of no interest."""

from __future__ import annotations

from benchmarks import gpu
from tests import tiny


def test_every_measurement_executes() -> None:
    steps: dict[str, int] = {
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "max_length": 64,
    }
    steps["gradient_accumulation_steps"] = 1
    load = gpu.Load(
        shape={"rows": 320, **tiny.SHAPE},
        tokens=4,
        steps={},
        pairs=2,
        runs={"SFT": {"method": "sft", "sft": steps}},
    )
    rows = [*gpu.field(load), *gpu.steps(load), *gpu.memory(load)]
    assert len(rows) == 6
    assert all(row.measured is not None and row.measured > 0 for row in rows)
