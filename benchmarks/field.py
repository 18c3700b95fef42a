"""Speed, memory and accuracy of the field against plain eager torch.

python -m benchmarks.field
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from benchmarks.measure import by_turns, conclude
from carl_runtime_min.field import token_field

TOKENS, VOCAB = 512, 151_936


def eager(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What one writes first: log_softmax, then -sum p log p."""
    log_p = torch.log_softmax(logits.float(), -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return entropy, log_p.gather(-1, ids[:, None]).squeeze(-1)


def exact(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The same in float64, with 0 log 0 = 0."""
    log_p = torch.log_softmax(logits.double(), -1)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
    return entropy, log_p.gather(-1, ids[:, None]).squeeze(-1)


def whole_field(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The formulas of `token_field` without its chunks, for a compiler to fuse."""
    z = logits.float()
    z = z - z.amax(-1, keepdim=True)
    chosen = z.gather(-1, ids[:, None]).squeeze(-1)
    z = z.clamp(min=-200)
    e = z.exp()
    s, t = e.sum(-1), (e * z).sum(-1)
    return (s.log() - t / s).clamp(max=math.log(VOCAB)), chosen - s.log()


def inputs(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, VOCAB, generator=generator).mul_(3)
    return logits, torch.randint(0, VOCAB, (rows,), generator=generator)


def hostile() -> dict[str, tuple[Tensor, Tensor]]:
    """Logits on which the unshifted formulas lose digits or give NaN."""
    logits, ids = inputs(4)
    top = logits.topk(50)
    coin = torch.full((4, VOCAB), -1e4)
    coin[:, :2] = 1e4
    one_hot = torch.zeros(4, VOCAB)
    one_hot[:, 0] = 1e4
    ruled_out = torch.full_like(logits, -math.inf)
    first = torch.zeros(4).long()
    return {
        "ordinary": (logits, ids),
        "offset of 1e4": (logits + 1e4, ids),
        "coin of +-1e4": (coin, first),
        "top 50, rest -inf": (
            ruled_out.scatter(-1, top.indices, top.values),
            top.indices[:, 7],
        ),
        "constant": (torch.full((4, VOCAB), 7.0), ids),
        "one-hot": (one_hot, first),
    }


def peak_megabytes(name: str) -> float:
    """Extra peak memory of one call, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.field", name]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def print_peak(name: str) -> None:
    """In that process: the rise of the high-water mark over what the input needs."""
    candidate = {"eager": eager, "token_field": token_field}[name]
    logits, ids = inputs(TOKENS)
    candidate(logits[:1, :1000].clone(), ids[:1] % 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        candidate(logits, ids)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    print((after - before) * unit / 1e6)


def main() -> int:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    # First of all: a process starts with the high-water mark of the one it came from.
    peaks = {name: peak_megabytes(name) for name in ("eager", "token_field")}
    ratios, shares = {}, {}
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    compiled = torch.compile(whole_field, dynamic=False)
    print(f"[{TOKENS}, {VOCAB}], one thread        eager ms   field ms   ratio")
    for dtype in (torch.float32, torch.bfloat16):
        logits, ids = inputs(TOKENS)
        logits = logits.to(dtype)
        taken = by_turns(
            {
                "eager": lambda x=logits, y=ids: eager(x, y),
                "field": lambda x=logits, y=ids: token_field(x, y),
                "compiled": lambda x=logits, y=ids: compiled(x, y),
                "read": lambda x=logits: x.view(bits[x.dtype]).amax(),
            },
            rounds=5,
        )
        ratios[dtype] = taken["eager"] / taken["field"]
        print(
            f"  {dtype!s:<34}{taken['eager'] * 1e3:8.0f}{taken['field'] * 1e3:11.0f}"
            f"{ratios[dtype]:8.1f}"
        )
        for name in ("field", "compiled"):
            shares[dtype, name] = taken["read"] / taken[name]
            print(f"    {name}: {shares[dtype, name]:.0%} of a pass that only reads")
        del logits
    print(
        f"  extra peak memory, MB             {peaks['eager']:8.0f}"
        f"{peaks['token_field']:11.0f}"
    )
    print(f"{'max error against float64, nats':<34}|dH| eager      |dH|  |dlog p|")
    worst = 0.0
    for name, (logits, ids) in hostile().items():
        truth, plain, ours = (f(logits, ids) for f in (exact, eager, token_field))
        errors = [
            float((a - b).abs().max())
            for a, b in ((plain[0], truth[0]), *zip(ours, truth, strict=True))
        ]
        print(f"  {name:<32}{errors[0]:11.1e}{errors[1]:10.1e}{errors[2]:10.1e}")
        worst = max(worst, *(math.inf if math.isnan(e) else e for e in errors[1:]))
    return conclude(
        {
            "float32 at least 3 times as fast as eager": ratios[torch.float32] >= 3,
            "field at least 10 % of a read-only pass": (
                shares[torch.float32, "field"] >= 0.1
            ),
            "compiled at least 30 % of a read-only pass": (
                shares[torch.float32, "compiled"] >= 0.3
            ),
            "extra peak memory at most 64 MB": peaks["token_field"] <= 64,
            "errors at most 5e-6, on hostile logits too": worst <= 5e-6,
        }
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_peak(sys.argv[1])
    else:
        sys.exit(main())
