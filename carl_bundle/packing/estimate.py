"""How much a pack will take, before anything of it is downloaded."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from carl_bundle.packing.wheel import Wheel

_TIMEOUT, _AT_ONCE = 10.0, 8


def wheel_sizes(wheels: Iterable[Wheel]) -> dict[str, int | None]:
    """Bytes of each wheel's file; None where its index does not tell."""
    import httpx

    wheels = list(wheels)
    trust = ssl.create_default_context()
    options = {"timeout": _TIMEOUT, "follow_redirects": True}
    with httpx.Client(verify=trust, **options) as client:  # type: ignore[arg-type]

        def size(wheel: Wheel) -> int | None:
            if path := wheel.local_path:
                return path.stat().st_size if path.is_file() else None
            try:
                answer = client.head(wheel.url).raise_for_status()
                return int(answer.headers["Content-Length"])
            except (httpx.HTTPError, KeyError, ValueError):
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sizes = list(pool.map(size, wheels))
    return {wheel.file: size for wheel, size in zip(wheels, sizes, strict=True)}


def shown(size: int) -> str:
    """A number of bytes for people."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
