"""A sandbox for programs that a model wrote: bubblewrap, limits and a syscall filter.

A program sees Python's standard library, an empty /tmp and what it is given. It has no
network, no file of this machine outside /usr and no variable of this process, and it
ends with its time. What it printed is judged outside.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import struct
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from carl_runtime_min.errors import ConfigurationError

SANDBOX_SECONDS = 5  # of wall-clock time
SANDBOX_LIMITS = (  # bytes of memory and of a file, which what is printed is, too
    "--cpu=5 --as=536870912 --fsize=1048576 --nproc=16 --nofile=64 --core=0"
)
# By machine, its audit number and: ptrace, process_vm_readv, process_vm_writev, shmget,
# semget, msgget, add_key, request_key, keyctl, userfaultfd, bpf, perf_event_open,
# io_uring_setup. Neither limits nor namespaces hold what these reach or take.
DENIED_CALLS = {
    "x86_64": "0xC000003E 101 310 311 29 64 68 248 249 250 323 321 298 425",
    "aarch64": "0xC00000B7 117 270 271 194 190 186 217 218 219 282 280 241 425",
}
SANDBOX_PROBE = """
import ctypes, json, os, socket, sqlite3
outside, nonce = input(), input()
numbers = [name for name in os.listdir("/proc") if name.isdigit()]
assert not os.path.exists(outside) and len(numbers) < 5
assert [name for _, name in socket.if_nameindex()] == ["lo"]
assert ctypes.CDLL(None).unshare(0x10000000) == -1
assert not any(os.access(path, os.W_OK) for path in ("/", "/usr", "/dev", "/dev/shm"))
print(nonce)
"""
SANDBOX_PATH = "/usr/local/bin:/usr/bin:/bin"
NO_SANDBOX = (
    "install bubblewrap 0.8 or later, util-linux and /usr/bin/python3 (apt-get install "
    "bubblewrap python3), on a machine or in a container that allows user namespaces"
)


class Ran(NamedTuple):
    """What a program did; `code` is None if its time ran out."""

    code: int | None
    output: str
    errors: str


def syscall_filter() -> bytes:
    """A BPF program: EPERM for the denied calls, and for those of other machines."""
    if platform.machine() not in DENIED_CALLS:
        message = f"the sandbox knows no syscalls of {platform.machine()}"
        raise ConfigurationError(message, remedy="train on x86-64 or AArch64 Linux")
    arch, *numbers = (int(n, 0) for n in DENIED_CALLS[platform.machine()].split())
    rest = len(numbers)
    steps = [(0x20, 0, 0, 4), (0x15, 0, rest + 3, arch), (0x20, 0, 0, 0)]
    steps += [(0x35, rest + 1, 0, 0x40000000)]  # x32 numbers on x86-64
    steps += [(0x15, rest - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]  # allow, or EPERM
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def sandbox_command(program: int, filter_: int, status: int) -> list[str]:
    """bubblewrap around Python, which runs the file with the descriptor `program`."""
    places = [f"{sys.base_prefix}/bin/python3", "/usr/bin/python3"]
    found = [path for path in places if Path(path).exists()] or places
    python = min(found, key=lambda path: not path.startswith("/usr/"))
    binds = ["--ro-bind", "/usr", "/usr"]
    if not python.startswith("/usr/"):
        binds += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    for path in ("/bin", "/lib", "/lib64", "/etc/ld.so.cache"):
        link = Path(path).is_symlink() and str(Path(path).readlink())
        binds += ["--symlink", link, path] if link else ["--ro-bind-try", path, path]
    namespaces = "--unshare-all --unshare-user --disable-userns --uid 1000 --gid 1000"
    ends = "--die-with-parent --new-session --clearenv --cap-drop ALL --hostname box"
    mounts = "--proc /proc --dev /dev --size 16777216 --tmpfs /tmp --chdir /tmp"
    mounts += f" --ro-bind-data {program} /main.py --remount-ro /dev --remount-ro /"
    options = f"--setenv PYTHONHASHSEED 0 --seccomp {filter_} --json-status-fd {status}"
    limits = ["prlimit", *SANDBOX_LIMITS.split()]
    inside = [*limits, python, "-s", "-S", "-B", "-X", "utf8", "/main.py"]
    outside = f"{namespaces} {ends} {mounts} {options}".split()
    return ["bwrap", *binds, *outside, *inside]


def run_sandboxed(code: str, given: str = "") -> Ran:
    """Run a Python program that reads `given`; ConfigurationError: no sandbox started.

    Nothing of it is left when this returns. Root gives up its rights before: no limit
    on processes holds for it.
    """
    contents = [text.encode(errors="replace") for text in (code, given, "", "", "")]
    with contextlib.ExitStack() as stack:
        files = []
        for content in (*contents, syscall_filter()):
            file = os.fdopen(os.memfd_create("sandbox"), "w+b")
            files.append(stack.enter_context(file))
            file.write(content)
            file.seek(0)
        program, stdin, stdout, stderr, status, filter_ = files
        passed = [file.fileno() for file in (program, filter_, status)]
        options: dict[str, Any] = {"pass_fds": passed, "env": {"PATH": SANDBOX_PATH}}
        options |= {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        if os.geteuid() == 0:
            options |= {"user": 65534, "group": 65534, "extra_groups": []}
        try:
            run = partial(subprocess.run, timeout=SANDBOX_SECONDS, **options)
            ended = run(sandbox_command(*passed)).returncode
        except subprocess.TimeoutExpired:
            ended = None  # it was killed, and all in it
        except OSError as error:
            reason = f"no sandbox: {error}"
            raise ConfigurationError(reason, remedy=NO_SANDBOX) from error
        for file in files:
            file.seek(0)
        output, errors = (x.read().decode(errors="replace") for x in (stdout, stderr))
        if ended is not None and b"exit-code" not in status.read():
            raise ConfigurationError(f"no sandbox: {errors}", remedy=NO_SANDBOX)
    return Ran(ended, output, errors)


def check_sandbox() -> None:
    """Run a probe; ConfigurationError unless it runs, and runs sealed off."""
    nonce = secrets.token_hex(8)
    with tempfile.NamedTemporaryFile() as outside:
        ran = run_sandboxed(SANDBOX_PROBE, f"{outside.name}\n{nonce}\n")
    if ran.output.strip() != nonce:
        raise ConfigurationError(f"the sandbox leaks: {ran.errors}", remedy=NO_SANDBOX)
