"""The measurements of one completion, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from carl_runtime_min.strict_json import json_value


@dataclass(frozen=True)
class CoherenceSnapshot:
    """What was measured of one completion. Means over no tokens are NaN."""

    step: int | None
    n_tokens: int
    phi_mean: float
    phi_std: float
    entropy_mean: float
    entropy_std: float
    surprisal_mean: float
    surprisal_std: float
    n_crystallizations: int
    n_meltings: int
    defect_density: float
    multiscale_coherence: float
    cloud_quality: float
    discontinuity_score: float
    reward: float
    kuramoto_R: float  # noqa: N815
    top_k_mass: float | None
    coherence_by_scale: dict[int, float]
    phi_trajectory: list[float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a number that is not finite becomes None."""
        fields: dict[str, Any] = json_value(asdict(self))
        return fields

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> CoherenceSnapshot:
        """The snapshot of a `to_dict()`; a number that was not finite is NaN."""

        def number(value: Any) -> Any:
            return math.nan if value is None else value

        fields = {name: number(value) for name, value in record.items()}
        fields["step"], fields["top_k_mass"] = record["step"], record["top_k_mass"]
        scales = record["coherence_by_scale"]
        fields["coherence_by_scale"] = {int(j): number(c) for j, c in scales.items()}
        fields["phi_trajectory"] = [number(phi) for phi in record["phi_trajectory"]]
        return cls(**fields)
