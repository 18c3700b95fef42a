"""Does this machine compute what the machine did that the vectors are from?"""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-5


def compare(found: dict[str, Tensor], vectors: dict[str, Tensor]) -> int:
    """Print how far `found` is from the vectors; return 0, or 1 if that is too far."""
    good = True
    for name, values in found.items():
        error = (values - vectors[name]).abs().max().item()
        print(f"self-test: {name} is off by at most {error:.1e}")
        good &= error <= TOLERANCE
    print(f"self-test: {'OK' if good else 'FAILED'}, the bound is {TOLERANCE:.0e}")
    return 0 if good else 1
