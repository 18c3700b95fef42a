"""How fast a resumed run reads its stream again: rows a second, on one core.

python -m benchmarks.stream
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.measure import Row, report

ROWS = 20_000


def rate() -> float:
    """Prepare short rows of a local file as the trainer does, which skipping needs."""
    from trl import SFTConfig, SFTTrainer

    from carl_runtime_min.builtin import builtin_model, builtin_tokenizer
    from carl_runtime_min.streaming import file_stream, streamed

    words = builtin_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        row = {"prompt": "reverse 123456 please", "answer": "654321"}
        path.write_text((json.dumps(row) + "\n") * ROWS)
        empty = dict.fromkeys(("limit", "system_prompt"))
        source = {
            "id": str(path),
            "columns": {},
            "longest": 128,
            "too_long": "truncate",
        }
        source |= {**empty, "endless": True}
        rows = streamed(file_stream(source), source, words, seed=0)
        options = {"output_dir": folder, "max_steps": 1, "report_to": "none"}
        trainer = SFTTrainer(
            builtin_model(words, 0),
            args=SFTConfig(**options, use_cpu=True, bf16=False, max_length=128),
            train_dataset=rows,
            processing_class=words,
        )
        prepared = iter(trainer.train_dataset)
        next(prepared)
        begin = time.perf_counter()
        count = sum(1 for _ in islice(prepared, ROWS))
        return count / (time.perf_counter() - begin)


def rows() -> list[Row]:
    return [Row("rows a second that a resumed stream reads again", rate(), form=",.0f")]


if __name__ == "__main__":
    sys.exit(report(rows()))
