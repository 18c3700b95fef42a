"""Speed, memory and accuracy of the field against plain eager torch.

python -m benchmarks.field
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from benchmarks.measure import Row, by_turns, ratio, report
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


def speed(dtype: torch.dtype) -> list[Row]:
    """The field beside plain torch, and beside a pass that only reads."""
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    compiled = torch.compile(whole_field, dynamic=False)
    logits, ids = inputs(TOKENS)
    logits = logits.to(dtype)

    def read() -> Tensor:
        return logits.view(bits[dtype]).amax()

    taken = by_turns(
        {
            "eager": lambda: eager(logits, ids),
            "field": lambda: token_field(logits, ids),
            "again": lambda: token_field(logits, ids),
            "compiled": lambda: compiled(logits, ids),
            "read": read,
            "read again": read,
        }
    )
    kind, f32 = str(dtype).removeprefix("torch."), dtype == torch.float32
    limits = (3.0, 0.1, 0.3) if f32 else (None, None, None)
    times = {name: statistics.median(x) * 1e3 for name, x in taken.items()}
    print(kind, ", ".join(f"{name} {x:.0f} ms" for name, x in times.items()))
    field, same = taken["field"], taken["read again"]
    plain = taken["eager"], field, limits[0]
    name = f"[{TOKENS}, {VOCAB}] {kind}: plain torch / field"
    found = [ratio(name, *plain, control=taken["again"], least=True, form=".2f")]
    for name, limit in (("field", limits[1]), ("compiled", limits[2])):
        shown = f"{kind}: a pass that only reads / {name}"
        row = ratio(shown, taken["read"], taken[name], limit, least=True, form=".1%")
        control = ratio("", same, taken["read"]).measured
        found.append(replace(row, control=control))
    return found


def accuracy() -> float:
    """The largest error against float64, in nats, on hostile logits too."""
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
    return worst


def rows() -> list[Row]:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    # First of all: a process starts with the high-water mark of the one it came from.
    peaks = {name: peak_megabytes(name) for name in ("eager", "token_field")}
    print(f"extra peak memory of plain torch: {peaks['eager']:.0f} MB")
    return [
        *speed(torch.float32),
        *speed(torch.bfloat16),
        Row("extra peak memory of the field, MB", peaks["token_field"], 64),
        Row("largest error of the field, nats", accuracy(), 5e-6, form=".1e"),
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_peak(sys.argv[1])
    else:
        sys.exit(report(rows()))
