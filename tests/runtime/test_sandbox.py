"""What programs that want out of the sandbox get: nothing, and not for long.

Every attempt prints ESCAPED where it succeeds. Where that is safe, the same program
first runs without the sandbox and has to succeed, so that it is known to be one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min import sandbox
from carl_runtime_min.errors import ConfigurationError
from carl_runtime_min.sandbox import Ran, check_sandbox, run_sandboxed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is Linux's")

SECRET = "a-secret-of-the-host"
BEGIN = """
import ctypes, json, os, resource, signal, socket, struct, sys, threading, time
host = json.loads(input())
libc = ctypes.CDLL(None, use_errno=True)
print("begun", flush=True)
def escaped(yes=True):
    print("ESCAPED" if yes else "held", flush=True)
"""

# What works without a sandbox, too: it is run there first.
SHOWN = {
    "reads a file of the host": "escaped(host['secret'] in open(host['file']).read())",
    "reads it through a symbolic link": """
os.symlink(host["file"], "link")
escaped(host["secret"] in open("link").read())""",
    "reads it from the root of another process": """
for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
    try:
        escaped(host["secret"] in open(f"/proc/{pid}/root{host['file']}").read())
        break
    except OSError:
        continue""",
    "lists the directory of the run": "escaped('file' in os.listdir(host['folder']))",
    "writes a file of the host": "open(host['file'], 'a').write('x'); escaped()",
    "reads the users of the host": "escaped('root' in open('/etc/passwd').read())",
    "reads a secret from its environment": "escaped(host['secret'] in str(os.environ))",
    "reads a secret from the environment of others": """
for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
    try:
        found = host["secret"] in open(f"/proc/{pid}/environ").read()
    except OSError:
        continue
    if found:
        escaped()
        break""",
    "connects to a port of the host": """
socket.create_connection(("127.0.0.1", host["port"]), timeout=2)
escaped()""",
    "connects to an abstract socket": """
socket.socket(socket.AF_UNIX).connect(chr(0) + host["abstract"])
escaped()""",
    "connects to a socket file": """
socket.socket(socket.AF_UNIX).connect(host["socket"])
escaped()""",
    "sees a process of the host": "os.kill(host['pid'], 0); escaped()",
    "kills a process of the host": "os.kill(host['victim'], 9); escaped()",
    "traces a process of the host": """
escaped(libc.ptrace(16, host["victim"], 0, 0) == 0)""",
    "makes a user namespace": "escaped(libc.unshare(0x10000000) == 0)",
    "takes shared memory that no limit counts": """
libc.shmget.restype = ctypes.c_int
found = libc.shmget(0, 2**20, 0o1600)
escaped(found >= 0)
libc.shmctl(found, 0, 0)""",
    "reads the keys of the session": "escaped(libc.syscall(250, 0, -3, 1) >= 0)",
    "opens a performance counter or a ring": """
escaped(libc.syscall(425, 4, ctypes.create_string_buffer(120)) >= 0)""",
    "takes a gigabyte": "import mmap; mmap.mmap(-1, 2**30); escaped()",
    "raises its limits": """
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
escaped()""",
    "writes a file of two megabytes": """
open("big", "wb").write(bytes(2**21)); escaped()""",
    "fills the temporary files": """
for i in range(40):
    open(f"big{i}", "wb").write(bytes(2**20 - 1))
escaped()""",
    "starts fifty threads": """
for _ in range(50):
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
escaped()
os._exit(0)""",
    "opens a hundred files": """
held = [open("/dev/null") for _ in range(100)]
escaped()""",
    "imports what the trainer uses": """
sys.path += host["path"]
import yaml
escaped()""",
}

# What is not to be tried outside: it would hurt this machine.
ALONE = {
    "writes to the system": """
for path in ("/usr/x", "/x", "/dev/x", "/dev/shm/x", "/etc/x", "/proc/sys/kernel/x"):
    try:
        open(path, "w").write("x")
        escaped()
    except OSError:
        pass""",
    "changes its own program": "open('/main.py', 'w').write('pass'); escaped()",
    "mounts a file system": "escaped(libc.mount(b't', b'/tmp', b'tmpfs', 0, 0) == 0)",
    "remounts the system for writing": """
escaped(libc.mount(0, b"/usr", 0, 0x1020, 0) == 0)""",
    "leaves through another root": "os.chroot('/tmp'); escaped()",
    "becomes root": "os.setuid(0); escaped()",
    "has capabilities": """
caps = [x for x in open("/proc/self/status") if x.startswith("CapEff")][0]
escaped(int(caps.split()[1], 16) != 0)""",
    "makes a device": """
os.mknod("memory", 0o600 | 0o20000, os.makedev(1, 1))
escaped()""",
    "finds a disk, a GPU or memory": """
names = ("mem", "kmsg", "sda", "vda", "nvidia0", "kvm", "fuse", "dri")
escaped(any(os.path.exists(f"/dev/{name}") for name in names))""",
    "renames the machine": "socket.sethostname('x'); escaped()",
    "sees a network": "escaped(len(socket.if_nameindex()) > 1)",
    "sends a datagram": """
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
escaped()""",
    "holds a descriptor of the trainer": """
escaped(any(os.path.exists(f"/proc/self/fd/{n}") for n in range(4, 1000)))""",
    "kills what started it": "os.kill(os.getppid(), 9); time.sleep(0.1)",
    "kills all that it sees": "os.kill(-1, 9)",
    "writes into what started it": """
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
own = ctypes.create_string_buffer(8)
piece = Piece(ctypes.addressof(own), 8)
call = libc.process_vm_writev(1, ctypes.byref(piece), 1, ctypes.byref(piece), 1, 0)
escaped(call >= 0)""",
}


@pytest.fixture(scope="module", autouse=True)
def working_sandbox() -> None:
    check_sandbox()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """This machine, as an attempt would like to reach it."""
    (tmp_path / "file").write_text(SECRET)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("A_TOKEN", SECRET)
    abstract = f"carl-{os.getpid()}"
    short = Path(f"/tmp/carl-{os.getpid()}.sock")
    victim = subprocess.Popen(["sleep", "60"])
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX) as named,
    ):
        hidden.bind("\0" + abstract)
        hidden.listen()
        named.bind(str(short))
        named.listen()
        yield {
            "secret": SECRET,
            "file": str(tmp_path / "file"),
            "folder": str(tmp_path),
            "port": tcp.getsockname()[1],
            "abstract": abstract,
            "socket": str(short),
            "pid": os.getpid(),
            "victim": victim.pid,
            "path": [path for path in sys.path if path],
        }
    short.unlink()
    victim.kill()
    victim.wait()


def attempt(code: str, host: dict[str, Any]) -> Ran:
    return run_sandboxed(BEGIN + code, json.dumps(host))


@pytest.mark.parametrize("name", SHOWN)
def test_an_attempt_that_works_outside_fails_inside(
    name: str, host: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    inside = attempt(SHOWN[name], host)
    assert "begun" in inside.output, inside
    assert "ESCAPED" not in inside.output
    assert (tmp_path / "file").read_text() == SECRET
    outside = subprocess.run(
        [sys.executable, "-c", BEGIN + SHOWN[name]],
        input=json.dumps(host),
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
    )
    if "libc." in SHOWN[name] and "ESCAPED" not in outside.stdout:
        pytest.skip("this machine does not permit it to anyone")
    assert "ESCAPED" in outside.stdout, outside


@pytest.mark.parametrize("name", ALONE)
def test_an_attempt_fails(name: str, host: dict[str, Any]) -> None:
    ran = attempt(ALONE[name], host)
    assert "begun" in ran.output, ran
    assert "ESCAPED" not in ran.output
    assert run_sandboxed("print(6 * 7)").output == "42\n"  # and the next one is whole


def alive(name: str) -> bool:
    """Whether a process of that name runs on this machine."""
    comms = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            comms.append(path.read_text().strip())
        except OSError:
            continue
    return name in comms


NAMED = """
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(15, b"%s", 0, 0, 0)
"""
LASTING = {
    "sleeps": "time.sleep(60)",
    "computes": "while True: pass",
    "ignores every signal": """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass""",
    "closes its output and sleeps": "os.close(1); os.close(2); time.sleep(60)",
    "forks without end": """
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)""",
    "floods its output": """
while True:
    try:
        os.write(1, bytes(2**16))
    except OSError:
        os.lseek(1, 0, 0)""",
}


@pytest.mark.parametrize("name", LASTING)
def test_nothing_lasts_longer_than_its_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "SANDBOX_SECONDS", 1)
    mark = f"last{os.getpid()}"
    begun = time.monotonic()
    ran = run_sandboxed(NAMED % mark + LASTING[name])
    assert 0.5 < time.monotonic() - begun < 4
    assert ran.code is None
    assert len(ran.output) <= 2**20
    until = time.monotonic() + 5
    while alive(mark) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(mark)


def test_a_process_left_behind_ends_with_its_program() -> None:
    mark = f"left{os.getpid()}"
    orphan = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
print("gone")
"""
    begun = time.monotonic()
    assert run_sandboxed(NAMED % mark + orphan) == Ran(0, "gone\n", "")
    assert time.monotonic() - begun < 4
    until = time.monotonic() + 5
    while alive(mark) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(mark)


def test_a_fork_bomb_has_few_processes() -> None:
    code = """
import os, time
count = 0
try:
    while os.fork():
        count += 1
    time.sleep(1)
except OSError:
    print(count)
    os.kill(-1, 9)
"""
    assert 1 < int(run_sandboxed(code).output) < 16


def test_output_is_cut_while_it_is_written() -> None:
    begun = time.monotonic()
    ran = run_sandboxed("import sys\nwhile True: print('x' * 1000)")
    assert ran.code != 0
    assert len(ran.output) == 2**20
    ran = run_sandboxed("import sys\nwhile True: print('x' * 1000, file=sys.stderr)")
    assert ran.output == ""
    assert len(ran.errors) <= 2**20
    assert time.monotonic() - begun < 8


def test_one_run_leaves_nothing_to_the_next() -> None:
    run_sandboxed("open('/tmp/left', 'w').write('x')")
    assert run_sandboxed("import os; print(os.listdir('/tmp'))").output == "[]\n"


def test_ordinary_programs_work() -> None:
    assert run_sandboxed("print(input()[::-1])", "abc\n") == Ran(0, "cba\n", "")
    ran = run_sandboxed("import sys; print('é'); sys.exit(3)")
    assert (ran.code, ran.output) == (3, "é\n")
    assert "ZeroDivisionError" in run_sandboxed("1 / 0").errors
    code = "import json, math, re, sqlite3, decimal; print(math.factorial(20))"
    assert run_sandboxed(code).output == "2432902008176640000\n"
    same = "print({'a', 'b', 'c', 'd'}, hash('x'))"
    assert run_sandboxed(same) == run_sandboxed(same)


def test_odd_texts_are_programs_and_inputs_too() -> None:
    assert run_sandboxed("print(1)\ud800").code == 1
    assert run_sandboxed("").code == 0
    long = f"print(len({'x' * 300_000!r}))"
    assert run_sandboxed(long, "y" * 300_000).output == "300000\n"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"SANDBOX_PATH": "/nowhere"}, "bwrap"),
        ({"SANDBOX_PROBE": "print('no nonce')"}, "leaks"),
        ({"SANDBOX_PROBE": "import carl_runtime_min"}, "leaks"),
        ({"DENIED_CALLS": {}}, "syscalls"),
    ],
)
def test_a_sandbox_that_does_not_work_is_refused(
    broken: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in broken.items():
        monkeypatch.setattr(sandbox, name, value)
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_sandbox()
    assert caught.value.remedy


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that every user can enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def use_instead(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bwrap").write_text(script)
    (folder / "bwrap").chmod(0o755)
    monkeypatch.setattr(sandbox, "SANDBOX_PATH", f"{folder}:{sandbox.SANDBOX_PATH}")


def test_a_bubblewrap_that_starts_nothing_is_refused(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "#!/bin/sh\necho 'No permissions to create' >&2\nexit 1\n"
    use_instead(open_folder, script, monkeypatch)
    with pytest.raises(ConfigurationError, match="No permissions to create"):
        check_sandbox()
    with pytest.raises(ConfigurationError, match="No permissions to create"):
        run_sandboxed("print(1)")


def test_a_bubblewrap_that_isolates_nothing_is_refused(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs the program, and says that it did, but as it is."""
    pretends = """#!/usr/bin/python3
import os, sys
words = sys.argv
os.write(int(words[words.index("--json-status-fd") + 1]), b'{"exit-code": 0}')
fd = int(words[words.index("--ro-bind-data") + 1])
os.execvp(sys.executable, [sys.executable, "-c", os.read(fd, 99999).decode()])
"""
    use_instead(open_folder, pretends, monkeypatch)
    assert run_sandboxed("print(1)").output == "1\n"
    with pytest.raises(ConfigurationError, match="leaks"):
        check_sandbox()
