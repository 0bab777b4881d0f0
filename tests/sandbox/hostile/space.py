"""Taking more than was given: processes, threads, memory, disk, descriptors.

Bounded, so that one that works does little harm: a gigabyte of memory, 200 MB of disk.
"""

# The programs read better unbroken.
# ruff: noqa: E501

from .attack import CRASHED, ERROR, FAILED, Attack, attack, call, refused

QUOTA = ("fs",)  # only a file system of its own has a size
COUNTED = ("fork",)  # threads are counted by the server, which also decides on forks


def flood(
    number: int, name: str, step: str, most: int, *, word: str = "WORKED", **more: object
) -> Attack:
    """Repeats a step; doing it `most` times is the abuse."""
    code = (
        "import os, sys, ctypes\nn, kept = 0, []\ntry:\n"
        f"    while n < {most}: {step}; n += 1\n    print('{word}')\n"
        "except (OSError, ImportError, RuntimeError, ValueError) as error: print('SAFE', n, error)"
    )
    return attack(number, name, code, **more)


def bomb(number: int, name: str, code: str, **more: object) -> Attack:
    """Takes a gigabyte; being stopped on the way is what shall happen."""
    return attack(number, name, code + "\nprint('WORKED')", *FAILED, **more)


PROCESSES = [
    flood(
        1, "fork-bomb", "kept.append(os.fork() or os._exit(__import__('time').sleep(2) or 0))", 40
    ),
    call(1, "fork-by-number", 57, own=True),
    call(1, "vfork-by-number", 58, own=True),
    attack(
        61,
        "many-threads",
        """
        import threading
        stop = threading.Event(); n = 0
        threading.stack_size(65536)
        try:
            while n < 400: threading.Thread(target=stop.wait, daemon=True).start(); n += 1
        except RuntimeError: pass
        stop.set(); print('SAFE' if n < 16 else 'WORKED')
        """,
        walls=COUNTED,
    ),
    attack(
        61,
        "threads-that-start-threads-all-at-once",
        """
        import _thread, time
        _thread.stack_size(65536)
        lock = _thread.allocate_lock(); count = 0; refused = []; done = []
        def grow():
            global count
            with lock: count += 1
            while not refused and count < 400:
                try: _thread.start_new_thread(grow, ())
                except RuntimeError: refused.append(1)
            while not done: time.sleep(0.01)
        try:
            for _ in range(8): _thread.start_new_thread(grow, ())
        except RuntimeError: pass
        time.sleep(0.2); done.append(1); print('SAFE' if count < 32 else 'WORKED', count)
        """,
        walls=COUNTED,
        own=True,
    ),
]

MEMORY_BOMBS = [
    bomb(2, "memory-bomb", "x = []\nwhile len(x) < 64: x.append(b'x' * (16 << 20))"),
    bomb(2, "numpy-memory-bomb", "import numpy\nnumpy.ones((1 << 27,))"),
    bomb(2, "list-that-doubles", "x = [0]\nwhile len(x) < 1 << 27: x += x"),
    bomb(
        2,
        "memory-by-threads",
        """
import threading
def eat():
    try: kept.append(b'x' * (128 << 20))
    except MemoryError: kept.append(None)
kept = []; many = [threading.Thread(target=eat) for _ in range(8)]
for t in many: t.start()
for t in many: t.join()
if None in kept: raise MemoryError""",
    ),
    bomb(
        2,
        "memory-again-after-the-error",
        """
x = []
for _ in range(3):
    try:
        while len(x) < 1024: x.append(b'x' * (1 << 20))
    except MemoryError: pass
if len(x) < 1024: raise MemoryError""",
    ),
    bomb(2, "inflated-zeros", "import zlib\nc = zlib.compressobj(9); packed = b''.join(c.compress(bytes(1 << 20)) for _ in range(1024)) + c.flush()\nassert len(zlib.decompress(packed)) == 1 << 30"),
    bomb(72, "huge-mapping", "import mmap\nmmap.mmap(-1, 1 << 40)"),
    bomb(72, "many-small-mappings", "import mmap\nkept = []\nwhile len(kept) < 1024: kept.append(mmap.mmap(-1, 1 << 20)); kept[-1].write(b'x' * (1 << 20))"),
    attack(
        72,
        "mapping-without-reserve",
        """
        import ctypes
        mmap = ctypes.CDLL(None).mmap; mmap.restype = ctypes.c_long
        private_anonymous_noreserve = 0x4022
        got = mmap(None, ctypes.c_long(1 << 40), 3, private_anonymous_noreserve, -1, ctypes.c_long(0))
        print('SAFE' if got == -1 else 'WORKED')
        """,
        own=True,
    ),
    attack(
        72,
        "break-raised",
        """
        import ctypes
        sbrk = ctypes.CDLL(None).sbrk; sbrk.restype = ctypes.c_long
        print('SAFE' if sbrk(ctypes.c_long(1 << 30)) == -1 else 'WORKED')
        """,
    ),
    call(72, "mlock", 149, "ctypes.addressof(b)", 16 << 20, setup="b = ctypes.create_string_buffer(16 << 20)"),
    call(72, "mlockall", 151, 1),
    refused(72, "locked-mapping", "__import__('mmap').mmap(-1, 16 << 20, flags=0x2022)"),
    refused(72, "huge-pages", "__import__('mmap').mmap(-1, 4 << 20, flags=0x40022)", own=True),
    attack(
        72,
        "mapping-at-address-zero",
        """
        import ctypes
        mmap = ctypes.CDLL(None).mmap; mmap.restype = ctypes.c_long
        got = mmap(None, ctypes.c_long(4096), 3, 0x32, -1, ctypes.c_long(0))
        print('SAFE' if got == -1 else 'WORKED')
        """,
    ),
    attack(
        72,
        "file-shrunk-under-its-mapping",
        "import mmap\nf = open('m', 'w+b'); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0); f.truncate(0)\nm[9]",
        CRASHED, ERROR,
    ),
]  # fmt: skip

DISK = [
    refused(3, "one-large-file", "f = open('f', 'wb', 0); [f.write(bytes(4 << 20)) for _ in range(50)]"),
    flood(3, "disk-fill", "open(f'f{n}', 'wb').write(bytes(1 << 20))", 200, walls=QUOTA),
    flood(3, "disk-fill-by-nameless-files", "kept.append(open('f', 'wb', 0)); kept[-1].write(bytes(4 << 20)); os.unlink('f')", 50, walls=QUOTA),
    attack(
        3,
        "disk-fill-through-mappings",
        """
        import mmap
        for n in range(50):
            with open(f'm{n}', 'w+b') as f:
                f.truncate(4 << 20)
                with mmap.mmap(f.fileno(), 0) as m: m[:] = bytes([n]) * len(m)
        print('WORKED')
        """,
        CRASHED, ERROR,
        walls=QUOTA,
    ),
    flood(4, "shared-memory-fill", "kept.append(open('/dev/shm/palestra-attack', 'wb', 0)); os.unlink('/dev/shm/palestra-attack'); kept[-1].write(bytes(1 << 20))", 100),
    refused(4, "shared-memory-object", "(lambda m: m.unlink())(__import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=1 << 20))"),
    flood(5, "inode-fill", "open(f'n{n}', 'w').close()", 20_000, walls=QUOTA),
    flood(5, "inode-fill-by-folders", "os.mkdir(f'd{n}')", 20_000, walls=QUOTA),
    refused(58, "sparse-file", "open('s', 'wb').truncate(1 << 40)"),
    refused(58, "write-far-out", "os.pwrite(os.open('s', 66, 0o600), b'x', 1 << 40)"),
    flood(5, "folders-in-folders", "os.mkdir('deeper'); os.chdir('deeper')", 1500, walls=QUOTA, word="REACHED"),
    attack(
        5,
        "folders-nobody-may-read",
        """
        import os
        os.mkdir('a', 0o300); os.chdir('a'); os.mkdir('b', 0o300); open('b/f', 'w').write('x'); os.mkdir('c', 0)
        print('SAFE')
        """,
    ),
]  # fmt: skip

DESCRIPTORS = [
    flood(80, "descriptor-flood", "kept.append(os.dup(0))", 5000),
    flood(80, "pipe-flood", "kept.append(os.pipe()); os.set_blocking(kept[-1][1], False); os.write(kept[-1][1], bytes(65536))", 2000),
    attack(
        80,
        "threads-with-descriptor-tables-of-their-own",
        """
        import ctypes, mmap, os, time
        # clone(CLONE_VM | FS | SIGHAND | THREAD | SYSVSEM), not CLONE_FILES: a table for each thread
        stack = mmap.mmap(-1, 65536); top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + 65536
        wait = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)
        got = ctypes.CDLL(None).clone(wait, ctypes.c_void_p(top - 64), 0x50b00, None)
        print('SAFE' if got == -1 else 'WORKED')
        """,
        own=True,
    ),
    call(80, "descriptor-table-by-close-range", 436, 900, 999, 2, own=True),
    flood(80, "pipes-for-all-sessions", "kept.append(os.pipe())", 17, walls=COUNTED, own=True),
    attack(
        80,
        "pipes-by-threads-at-once",
        """
        import os, threading
        kept, start, _ = [], threading.Barrier(12), threading.stack_size(1 << 18)
        def take():
            start.wait()
            for _ in range(4):
                try: kept.append(os.pipe())
                except OSError: pass
        threads = [threading.Thread(target=take) for _ in range(12)]
        for t in threads: t.start()
        for t in threads: t.join()
        print('SAFE' if len(kept) <= 16 else 'WORKED', len(kept))
        """,
        walls=COUNTED,
        own=True,
    ),
    flood(73, "inotify-exhaustion", "r = ctypes.CDLL(None, use_errno=True).inotify_init(); kept.append(os.dup(r) if r >= 0 else os.close(-1))", 100),
    flood(73, "epoll-exhaustion", "kept.append(__import__('select').epoll())", 4000),
    flood(73, "eventfd-exhaustion", "kept.append(os.eventfd(0))", 4000),
    call(73, "timerfd", 283, 1, 0, own=True),
    call(73, "signalfd", 289, -1, "ctypes.addressof(m)", 8, 0, setup="m = ctypes.c_uint64(0)", own=True),
    call(73, "fanotify", 300, 0, 0),
]  # fmt: skip

ATTACKS = [*PROCESSES, *MEMORY_BOMBS, *DISK, *DESCRIPTORS]
