"""The machine that a lock or a pack is for: Python, processor, build of torch."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass, replace

from carl_bundle.errors import UsageError

OLDEST_PYTHON = 11
"""Minor version of the oldest Python that scripts run on."""

GLIBC = 28
"""Wheels may need glibc 2.28: that of RHEL 8, Debian 10 and Ubuntu 20.04."""

_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
_ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_FORM = re.compile(
    r"cp3(?P<minor>\d+)-linux-(?P<machine>x86_64|aarch64)"
    r"(?:-(?P<build>cpu|cu\d+|rocm\d+(?:\.\d+)*|xpu))?"
)


@dataclass(frozen=True)
class Target:
    """CPython 3.`minor` on Linux.

    Attributes:
        minor: The minor version of Python.
        machine: The processor, as wheels name it.
        build: The build of torch, such as cpu or cu130; None: the one pip prefers.
    """

    minor: int
    machine: str
    build: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read cp312-linux-x86_64 or cp312-linux-x86_64-cu130; else UsageError."""
        match = _FORM.fullmatch(text)
        if not match or int(match["minor"]) < OLDEST_PYTHON:
            raise UsageError(
                f"{text!r} is no target",
                remedy="write cp312-linux-x86_64, with -cpu or -cu130 for a build of "
                f"torch; Python 3.{OLDEST_PYTHON} or later, x86_64 or aarch64",
            )
        return cls(int(match["minor"]), match["machine"], match["build"])

    @classmethod
    def here(cls) -> Target:
        """This machine. UsageError if it cannot be one."""
        machine, kind = platform.machine(), platform.python_implementation()
        known = sys.platform == "linux" and machine in _OLDEST_GLIBC
        if not known or kind != "CPython":
            raise UsageError(
                f"{kind} on {sys.platform} {machine} is no target",
                remedy="name one: --target cp312-linux-x86_64",
            )
        return cls(sys.version_info.minor, machine)

    def __str__(self) -> str:
        build = f"-{self.build}" if self.build else ""
        return f"cp3{self.minor}-linux-{self.machine}{build}"

    @property
    def python(self) -> str:
        return f"3.{self.minor}"

    def built(self, build: str | None) -> Target:
        """This target with the build of torch that was found."""
        return replace(self, build=build)

    @property
    def pip_options(self) -> list[str]:
        """What makes pip choose wheels of this target, whatever it runs on.

        Every tag is listed: pip takes manylinux_2_28 for that and nothing older.
        """
        tags = [f"cp3{self.minor}", "abi3", "none"]
        names = []
        for minor in range(GLIBC, _OLDEST_GLIBC[self.machine] - 1, -1):
            names.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _ALIASES:
                names.append(f"{_ALIASES[minor]}_{self.machine}")
        names.append(f"linux_{self.machine}")
        return [
            *("--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", self.python),
            *(word for tag in tags for word in ("--abi", tag)),
            *(word for name in names for word in ("--platform", name)),
        ]

    @property
    def markers(self) -> dict[str, str]:
        """The environment in which markers of requirements are evaluated (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }
