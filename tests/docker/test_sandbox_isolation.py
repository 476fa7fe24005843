"""What one run leaves for the next: nothing. And what it can see of us: nothing of use.

Each attack runs in a container of one slot; afterwards a witness in the same container reports all
it can see, which must be what it saw before. `recycled` attacks may cost the container its life.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sandbox import Case, Limits, Outcome, Program, Result
from sandbox.docker_backend import DockerSandbox

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

LIMITS = Limits(cpu_s=1, wall_s=1.5, memory_mb=128, output_bytes=100_000, file_bytes=1 << 20)

WITNESS = """
import json, os
def tree(top):
    return sorted(os.path.join(folder, name) for folder, folders, files in os.walk(top)
                  for name in folders + files)
def text(path):
    return open(path).read()
print(json.dumps({
    "pids": [p for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())][1:],
    "places": [tree(p) for p in ("/box", "/tmp", "/dev/shm", "/dev/mqueue")],
    "times": [os.stat(p).st_mtime for p in ("/tmp", "/dev/shm")],
    "modes": [oct(os.stat(p).st_mode) for p in ("/box", "/tmp", "/dev/shm", "/dev/mqueue")],
    "sysv": [len(text(f"/proc/sysvipc/{k}").splitlines()) for k in ("shm", "msg", "sem")],
    "free": [os.statvfs(p).f_ffree for p in ("/box", "/tmp", "/dev/shm")],
    "blocks": [os.statvfs(p).f_bfree for p in ("/box", "/tmp", "/dev/shm")],
    "sockets": text("/proc/net/unix").count("@"),
    "limits": text("/proc/self/limits"),
    "open": os.listdir("/proc/self/fd"),
    "groups": [os.getgroups(), os.umask(0), os.getpriority(0, 0)],
    "environment": sorted(os.environ.items()),
}))
"""

LEFTOVERS = {
    "daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        while True: time.sleep(0.01)
    os._exit(0)
time.sleep(0.1)""",
    "daemon that respawns": """
if os.fork() == 0:
    os.setsid()
    while True:
        if os.fork(): os._exit(0)""",
    "fork bomb in the background": """
if os.fork() == 0:
    os.setsid()
    while True:
        try: os.fork()
        except OSError: pass
time.sleep(0.05)""",
    "daemon that ignores every signal": """
if os.fork() == 0:
    os.setsid()
    for s in set(signal.valid_signals()) - {9, 19}: signal.signal(s, signal.SIG_IGN)
    while True: time.sleep(1)
time.sleep(0.05)""",
    "stopped children": """
for _ in range(4):
    if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.05)""",
    "zombies": """
for _ in range(10):
    if os.fork() == 0: os._exit(0)
time.sleep(0.05)""",
    "children after SIGCHLD is ignored": """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(10):
    if os.fork() == 0: time.sleep(0.1 * random.random()); os._exit(0)""",
    "kills itself and its group": "os.killpg(0, signal.SIGKILL)",
    "kills everyone": "os.kill(-1, signal.SIGKILL); time.sleep(0.1)",
    "vfork chain": """
import subprocess
for _ in range(3): subprocess.Popen(['sleep', '100'], start_new_session=True)""",
    "files in every place": """
for place in ('.', '/tmp', '/dev/shm', '/dev/mqueue'):
    try: open(f'{place}/left', 'w').write('x')
    except OSError: pass""",
    "deep tree": """
os.chdir('/tmp')
for _ in range(3000):
    os.mkdir('d' * 100); os.chdir('d' * 100)
open('x', 'w')""",
    "deep tree without permissions": """
os.chdir('/tmp')
for _ in range(50): os.mkdir('d'); os.chdir('d')
open('x', 'w')
for _ in range(50): os.chmod('.', 0); break
os.chmod('/tmp/d', 0)""",
    "all inodes": """
try:
    for i in range(10**6): open(f'/tmp/{i}', 'w').close()
except OSError: pass""",
    "all inodes as folders": """
try:
    for i in range(10**6): os.makedirs(f'/tmp/{i}/a/b')
except OSError: pass""",
    "all blocks": """
try:
    for i in range(10**6): open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 19))
except OSError: pass""",
    "links": """
os.symlink('/', 'root'); os.symlink('/proc/1', '/tmp/one'); os.symlink('self', 'self')
os.symlink('/etc', '/dev/shm/etc'); os.link('/tmp/one', '/tmp/two')""",
    "FIFOs and sockets": """
import socket
os.mkfifo('fifo'); os.mkfifo('/tmp/fifo'); socket.socket(socket.AF_UNIX).bind('/tmp/s')
s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'abstract'); s.listen()
if os.fork() == 0: time.sleep(100)""",
    "names that are no text": """
os.mkdir(b'/tmp/' + bytes(range(128, 250))); open(b'/tmp/' + bytes([255, 10, 13, 27]), 'w')
open('/tmp/-rf', 'w'); open('/tmp/ ', 'w')""",
    "folders without permissions": """
for n in '/tmp/a', '/dev/shm/b', 'c':
    os.mkdir(n); open(n + '/x', 'w'); os.chmod(n, 0)""",
    "mode bits and attributes": """
for n in '/tmp/a', 'b':
    open(n, 'w'); os.chmod(n, 0o7777)
    try: os.setxattr(n, 'user.x', b'1')
    except OSError: pass""",
    "POSIX semaphores": """
import multiprocessing as m
locks = [m.Semaphore(1) for _ in range(3)]
os._exit(0)""",
    "System V and POSIX IPC": """
import ctypes
c = ctypes.CDLL(None)
c.shmget(0x77, 4096, 0o1666); c.msgget(0x77, 0o1666); c.semget(0x77, 1, 0o1666)
try: ctypes.CDLL('librt.so.1').mq_open(b'/left', 0o102, 0o666, None)
except OSError: pass""",
    "memory-mapped file": """
import mmap
f = open('/dev/shm/x', 'w+b'); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0)
os.unlink('/dev/shm/x')
if os.fork() == 0: time.sleep(100)""",
    "own limits lowered": """
import resource
for r in range(16):
    try: resource.setrlimit(r, (0, 0))
    except (OSError, ValueError): pass""",
    "closed and filled output": """
os.close(0); os.close(2); os.write(1, b'x' * 70000); os.close(1)""",
    "unread output of a daemon": """
if os.fork() == 0:
    os.setsid()
    while True: os.write(1, b'x')
time.sleep(0.05); os._exit(0)""",
    "timers and alarms": "signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05); time.sleep(1)",
}

FORBIDDEN = {
    "signals process 1": "os.kill(1, 9)",
    "signals the zygote": "[os.kill(p, 9) for p in others()]",
    "reads what process 1 has open": "os.listdir('/proc/1/fd')",
    "opens the stream of process 1": "[open(f'/proc/1/fd/{n}', 'w') for n in range(20)]",
    "reads the memory of process 1": "open('/proc/1/mem', 'rb').read(1)",
    "reads the environment of process 1": "open('/proc/1/environ').read()",
    "reads the memory of the zygote": "[open(f'/proc/{p}/mem', 'rb') for p in others()]",
    "traces process 1": "check(libc.ptrace(16, 1, 0, 0))",
    "reads another process's memory": "check(libc.process_vm_readv(1, 0, 0, 0, 0, 0))",
    "takes a descriptor of process 1": "check(libc.syscall(438, libc.syscall(434, 1, 0), 0, 0))",
    "limits process 1": "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1))",
    "slows process 1 down": "os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "pins process 1": "os.sched_setaffinity(1, {0})",
    "becomes root": "os.setuid(0)",
    "joins root's group": "os.setgroups([0])",
    "raises its limits": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (999, 999))",
    "new user namespace": "check(libc.unshare(0x10000000))",
    "clone with a namespace": "check(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))",
    "clone3": "check(libc.syscall(435, 0, 0))",
    "mounts": "check(libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0))",
    "io_uring": "check(libc.syscall(425, 1, ctypes.create_string_buffer(200)))",
    "bpf": "check(libc.syscall(321, 0, 0, 0))",
    "userfaultfd": "check(libc.syscall(323, 0))",
    "keyrings": "check(libc.syscall(248, b'user', b'x', b'y', 1, -3))",
    "performance counters": "check(libc.syscall(298, 0, 0, -1, -1, 0))",
    "netlink socket": "socket.socket(16, 3, 0)",
    "packet socket": "socket.socket(17, 3, 0)",
    "vsock": "socket.socket(40, 1, 0)",
    "network": "socket.create_connection(('192.0.2.1', 80), 1)",
    "names": "socket.getaddrinfo('example.com', 80)",
    "host name": "socket.sethostname('x')",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "chroot": "os.chroot('/tmp')",
    "device nodes": "os.mknod('/tmp/d', 0o60666, os.makedev(8, 0))",
    "writes to the image": "open('/etc/x', 'w')",
    "writes to /dev": "open('/dev/x', 'w')",
    "writes to /proc/sys": "open('/proc/sys/kernel/hostname', 'w').write('x')",
    "writes to its cgroup": "open('/sys/fs/cgroup/memory/memory.limit_in_bytes', 'w').write('-1')",
    "changes its standard input": "os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x')",
    "set-user-id program": "os.chmod('/tmp', 0o777)",
    "the kernel's log": "open('/dev/kmsg')",
    "raw disk": "open('/dev/sda')",
    "core dump filter of process 1": "open('/proc/1/coredump_filter', 'w').write('1')",
    "victim of the OOM killer": "open('/proc/1/oom_score_adj', 'w').write('1000')",
}
FORBIDDEN_START = """
import ctypes, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)
def others():
    return [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]
def check(value):
    if value < 0: raise OSError(ctypes.get_errno(), 'refused')
try:
    assert others(), 'there is no zygote?'
    exec(SOURCE)
except (OSError, ValueError) as error:
    print('refused')
else:
    print('DONE')
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(num_slots=1)
    yield sandbox
    await sandbox.close()


async def run(box: DockerSandbox, source: str, start: str = "fork") -> Result:
    program = Program(files={"main.py": source.encode()}, python="main.py", start=start)  # type: ignore[arg-type]
    return (await box.run(program, [Case()], LIMITS))[0]


async def look(box: DockerSandbox, start: str) -> dict[str, object]:
    result = await run(box, WITNESS, start)
    assert result.outcome is Outcome.EXITED, result
    return json.loads(result.stdout)


@pytest.mark.parametrize("start", ["fork", "exec"])
@pytest.mark.parametrize("name", LEFTOVERS)
async def test_nothing_is_left(box: DockerSandbox, start: str, name: str) -> None:
    before = await look(box, start)
    recycled = box.metrics.slots_recycled
    await run(box, f"import os, random, signal, time\n{LEFTOVERS[name]}", start)
    assert await look(box, start) == before
    assert box.metrics.slots_recycled == recycled  # wiped, not thrown away
    assert before["pids"] == []


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_refused(box: DockerSandbox, name: str) -> None:
    lost = box.metrics.slots_lost
    result = await run(box, f"SOURCE = {FORBIDDEN[name]!r}\n{FORBIDDEN_START}")
    assert result.stdout == b"refused\n", result
    assert box.metrics.slots_lost == lost
    assert (await run(box, "print(1)")).stdout == b"1\n"


async def test_no_trace_of_the_host(box: DockerSandbox) -> None:
    source = "import os\nprint(dict(os.environ), open('/proc/self/mounts').read(), os.uname())"
    text = (await run(box, source)).stdout.decode()
    assert "GITHUB" not in text and "/root" not in text and "PYTHONPATH" not in text


async def test_the_zygote_has_seen_no_data(box: DockerSandbox) -> None:
    """Whatever lies in a forked program's memory came with it or from the warm interpreter."""
    secret = b"never-seen-" + b"before"
    program = Program(files={"main.py": b"input()"}, python="main.py")
    await box.run(program, [Case(stdin=secret + b"\n")], LIMITS)
    source = """
found = 0
for line in open('/proc/self/maps'):
    span, mode = line.split()[:2]
    if 'r' not in mode or '[v' in line: continue
    low, high = (int(x, 16) for x in span.split('-'))
    with open('/proc/self/mem', 'rb', 0) as memory:
        memory.seek(low)
        try: found += memory.read(high - low).count(b'never-seen-' + b'before')
        except OSError: pass
print(found)
"""
    result = await run(box, source)
    # Only what this program itself put together while looking for it.
    assert result.outcome is Outcome.EXITED and int(result.stdout) <= 2, result


PAGE_TABLES = """
import mmap
maps = []
while True:  # a page that is only read takes no memory, but its tables do
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
    maps.append(mmap.mmap(-1, 1 << 40, flags=flags, prot=mmap.PROT_READ))
    for place in range(0, 1 << 40, 1 << 21): maps[-1][place]
"""


async def test_a_full_container_is_the_programs_fault() -> None:
    """The kernel ends it before our own measure would; that is neither a fault of the machine nor
    anything the next run is blamed for."""
    async with DockerSandbox(num_slots=1, max_memory_mb=64, disk_mb=16) as box:
        program = Program(files={"main.py": PAGE_TABLES.encode()}, python="main.py")
        limits = Limits(cpu_s=5, wall_s=30, memory_mb=64)
        small = Program(files={"main.py": b"print(1)"}, python="main.py", start="exec")
        for _ in range(4):
            full = await box.run(program, [Case()] * 2, limits)
            assert [result.outcome for result in full] == [Outcome.MEMORY_LIMIT] * 2, full
            after = await box.run(small, [Case()] * 3, limits)
            assert [result.outcome for result in after] == [Outcome.EXITED] * 3, after
        assert box.metrics.slots_lost == 0


SMALL_AND_MANY = """
import mmap, os, time
with open('/proc/self/oom_score_adj', 'w') as file:
    file.write('0')  # to be no better a victim than the supervisor
for _ in range(60):
    if os.fork() == 0:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        tables = mmap.mmap(-1, 1 << 40, flags=flags, prot=mmap.PROT_READ)
        for place in range(0, 1000 << 21, 1 << 21): tables[place]
        time.sleep(60)
time.sleep(60)
"""


async def test_a_program_that_would_have_the_kernel_kill_the_supervisor() -> None:
    async with DockerSandbox(num_slots=1, max_memory_mb=64, disk_mb=16) as box:
        program = Program(files={"main.py": SMALL_AND_MANY.encode()}, python="main.py")
        limits = Limits(cpu_s=5, wall_s=30, memory_mb=64, processes=70)
        results = await box.run(program, [Case()] * 4, limits)
        assert [result.outcome for result in results] == [Outcome.MEMORY_LIMIT] * 4, results
        assert box.metrics.slots_lost == 0
