"""Reading a `carl.yaml`, flags and `--set` into a TrainSpec."""

from __future__ import annotations
