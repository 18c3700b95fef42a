"""`carl pack`: all that a script needs on a machine without network, in one folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli import options

if TYPE_CHECKING:
    from carl_bundle.packing.pack import Pack


def pack(
    spec: options.Spec = None,
    model: options.Model = None,
    method: options.Method = None,
    dataset: options.Dataset = None,
    seed: options.Seed = None,
    name: options.Name = None,
    no_carl: options.NoCarl = False,
    assignments: options.Assignments = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to make.")
    ] = None,
    target: options.Target = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how large it would be; make nothing.")
    ] = False,
) -> int:
    """Pack script, wheels, model and data for a machine without network."""
    from carl_bundle.errors import UsageError
    from carl_bundle.packing.pack import prepare, write
    from carl_bundle.packing.shell import SUMS
    from carl_runtime_min.run import sha256

    if output is None and not dry_run:
        raise UsageError("a pack is a folder", remedy="name one: carl pack -o DIR")
    frozen = options.frozen_spec(
        spec, model, method, dataset, seed, name, no_carl, assignments
    )
    found = prepare(options.script(frozen, spec), frozen, options.target_of(target))
    show(found)
    if output is None or dry_run:
        return 0
    write(found, output, lambda what: print(f"downloading {what}", file=sys.stderr))
    digest = sha256(output / SUMS)
    print(f"{output}: check it with ./verify.sh, run it with ./run.sh", file=sys.stderr)
    print(f"  {digest}  {SUMS}: compare it there", file=sys.stderr)
    return 0


def show(pack: Pack) -> None:
    """Print what will be packed, and how large it is."""
    from carl_bundle.packing.estimate import shown
    from carl_bundle.packing.local import size

    wheels = sum(size or 0 for size in pack.wheel_bytes.values())
    rows = [(f"{len(pack.wheels)} wheels for {pack.target}", wheels)]
    rows += [
        (f"{one.kind} {one.repo} at {one.revision[:12]}", sum(sizes.values()))
        for one, sizes in pack.snapshots.items()
    ]
    rows += [(name, size(path)) for name, path in pack.local.items()]
    rows.append(("together", pack.bytes))
    for what, number in rows:
        print(f"{shown(number):>10}  {what}", file=sys.stderr)
    if pack.unknown:
        print(f"note: {pack.unknown} wheels of unknown size", file=sys.stderr)
