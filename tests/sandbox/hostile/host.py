"""Reaching for the host: its files, secrets, processes, network, and what others see later.

Names between at signs are what the `Witness` guards: @SECRET@ a file, @FOLDER@ a folder that
the host's user may write to, @HOST@ the host's process id, @PORT@ and @ABSTRACT@ listeners.
"""

# The programs read better unbroken.
# ruff: noqa: E501

from .attack import ERROR, OK, attack, call, refused

FILES = [
    *(
        refused(6, f"host-{name}", f"print(__import__('hashlib').sha256(open('/etc/{name}', 'rb').read()).hexdigest())", word="REACHED")
        for name in ("passwd", "shadow", "machine-id")
    ),
    refused(7, "secret-beside-the-harness", "print(open('@SECRET@').read())"),
    refused(7, "secret-through-numpy", "print(bytes(__import__('numpy').fromfile('@SECRET@', dtype='u1')))"),
    refused(7, "secret-through-sympify", "print(__import__('sympy').sympify('''open(\"@SECRET@\").read()'''))"),
    refused(7, "secret-through-the-import-system", "print(__import__('importlib.util').machinery.SourceFileLoader('m', '@SECRET@').get_data('@SECRET@'))"),
    refused(7, "secret-through-dots", "print(open('../' * 40 + '@SECRET@'.lstrip('/')).read())"),
    refused(7, "host-folders", "print(__import__('hashlib').sha256(repr(sorted(os.listdir('/etc'))).encode()).hexdigest())", word="REACHED"),
    refused(7, "root-folders-ssh", "os.listdir('/root/.ssh')"),
    refused(7, "docker-socket", "os.stat('/var/run/docker.sock')", walls=("fs",), own=True),
    refused(7, "system-journal", "open('/dev/kmsg').read(9)"),
    refused(7, "kernel-memory", "open('/dev/mem', 'rb').read(9)"),
    refused(7, "block-devices", "open('/dev/vda', 'rb').read(9) if os.path.exists('/dev/vda') else open('/dev/sda', 'rb')"),
    refused(7, "sys-tree", "open('/sys/kernel/uevent_seqnum').read()", own=True),
    refused(42, "write-to-the-host", "open('@FOLDER@/attack', 'w').write('x')"),
    refused(42, "write-to-shared-tmp", "(lambda name: (open(name, 'w').close(), os.stat('@FOLDER@'), os.unlink(name)))('/var/tmp/palestra-attack')"),
    refused(42, "write-to-the-library", "open(os.__file__, 'a')"),
    refused(42, "write-to-packages", "open('/site/x', 'w')"),
    refused(42, "mode-of-a-host-file", "os.chmod('@SECRET@', 0o666)"),
    refused(42, "mode-of-a-host-folder", "os.chmod('@FOLDER@', 0o777)"),
    refused(42, "times-of-a-host-file", "os.utime('@SECRET@', (1, 1))"),
    refused(42, "rename-a-host-file", "os.rename('@SECRET@', '@FOLDER@/attack')"),
    refused(42, "remove-a-host-file", "os.unlink('@SECRET@')"),
    refused(42, "cut-a-host-file", "os.truncate('@SECRET@', 0)"),
    refused(42, "link-a-host-file", "os.link('@SECRET@', 'mine'); print(open('mine').read())"),
    refused(42, "folder-on-the-host", "os.mkdir('@FOLDER@/attack')"),
    refused(42, "attributes-of-a-host-file", "os.setxattr('@SECRET@', 'user.attack', b'x')"),
    refused(42, "owner-of-a-host-file", "os.chown('@SECRET@', os.getuid(), os.getgid())"),
    attack(
        43,
        "module-for-the-next-run",
        "import os\nfor place in ('.', '/tmp', '@FOLDER@'):\n    try:\n        for name in ('numpy', 'json', 'sitecustomize', 'usercustomize'): open(f'{place}/{name}.py', 'w').write('raise SystemExit(9)')\n    except OSError: pass\nprint('SAFE')",
    ),
    refused(44, "path-file", "open(os.path.dirname(__import__('numpy').__path__[0]) + '/x.pth', 'w')"),
    attack(44, "path-file-of-the-user", "import os, site\nos.makedirs(place := site.getusersitepackages(), exist_ok=True); open(place + '/x.pth', 'w').write(''); print('SAFE')", OK, ERROR),
    refused(44, "compiled-module", "open(__import__('importlib.util').util.cache_from_source(__import__('numpy').__file__), 'ab')"),
    refused(45, "symlink", "os.symlink('@SECRET@', 'answer.txt'); print(open('answer.txt').read())"),
    refused(45, "hard-link", "os.link(os.__file__, 'answer.txt')", own=True),
    refused(59, "fifo-as-result", "os.mkfifo('answer.txt')", own=True),
    refused(59, "device-as-result", "os.mknod('answer.txt', 0o60600, os.makedev(8, 0))"),
    call(59, "whiteout-device", 316, -100, "ctypes.addressof(f)", -100, "ctypes.addressof(g)", 4, setup="open('f', 'w'); f, g = map(ctypes.create_string_buffer, (b'f', b'g'))", own=True),
    refused(53, "chroot", "os.chroot('.')"),
    attack(
        53,
        "chroot-with-a-kept-folder",
        """
        import os
        try:
            kept = os.open('/', os.O_RDONLY | os.O_DIRECTORY); os.mkdir('jail'); os.chroot('jail'); os.fchdir(kept)
            for _ in range(40): os.chdir('..')
            os.chroot('.'); print(open('@SECRET@').read())
        except OSError: print('SAFE')
        """,
    ),
    refused(53, "folder-by-handle", "os.fchdir(os.open('/', os.O_PATH)); print(open('@SECRET@'.lstrip('/')).read())"),
    call(53, "open-by-handle", 304, -100, "ctypes.addressof(h)", 0, setup="h = ctypes.create_string_buffer(b'\\x08\\0\\0\\0\\1\\0\\0\\0\\2\\0\\0\\0\\0\\0\\0\\0', 64)"),
    call(53, "file-handle", 303, -100, "ctypes.addressof(p)", "ctypes.addressof(h)", "ctypes.addressof(m)", 0, setup="p = ctypes.create_string_buffer(b'/'); h = ctypes.create_string_buffer(b'\\x80\\0\\0\\0', 256); m = ctypes.c_int()", own=True),
]  # fmt: skip

SECRETS = [
    attack(8, "environment", "import os\nprint('SAFE', os.environ.get('PALESTRA_TEST_KEY', ''))"),
    attack(
        8,
        "environment-in-c",
        """
        import ctypes
        names = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ'); n = 0
        while names and names[n]: print(names[n]); n += 1
        print('SAFE')
        """,
    ),
    attack(8, "environment-of-the-module", "import posix\nprint('SAFE', posix.environ.get(b'PALESTRA_TEST_KEY', b''))"),
    refused(9, "environ-of-parent", "print(open(f'/proc/{os.getppid()}/environ').read())", word="REACHED"),
    refused(9, "environ-of-pid-1", "print(open('/proc/1/environ').read())", word="REACHED"),
    refused(9, "environ-of-host", "print(open('/proc/@HOST@/environ').read())", word="REACHED"),
    refused(9, "own-first-environ", "print(open('/proc/self/environ').read()); os.stat('/proc/self/environ')", walls=("fs",), own=True),
    attack(
        10,
        "list-processes",
        """
        import os
        try:
            others = [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]
            print('WORKED' if [open(f'/proc/{p}/cmdline').read() for p in others] else 'SAFE')
        except OSError: print('SAFE')
        """,
    ),
    refused(10, "command-of-the-host", "print(open('/proc/@HOST@/cmdline').read())", own=True),
    refused(10, "folder-of-the-host", "print(os.listdir('/proc/@HOST@/cwd/'))", own=True),
    refused(10, "program-of-the-host", "print(os.readlink('/proc/@HOST@/exe'))", walls=("fs",), own=True),
    refused(10, "mounts", "print(open('/proc/self/mounts').read()[:99])", own=True),
    attack(
        19,
        "inherited-descriptors",
        """
        import os
        found = []
        for d in range(4, 64):
            try: os.fstat(d); found.append(d)
            except OSError: pass
        print('WORKED' if found else 'SAFE', found)
        """,
    ),
    attack(48, "read-stdin", "import os\nprint('SAFE', os.read(0, 99))"),
    attack(48, "read-stdin-by-name", "import sys\nprint('SAFE', sys.stdin.read(99))"),
    attack(48, "read-from-output", "import fcntl, os\nfor d in (1, 2):\n    fcntl.fcntl(d, fcntl.F_SETFL, os.O_NONBLOCK)\n    try: print(os.read(d, 99))\n    except OSError: pass\nprint('SAFE')"),
    refused(55, "terminal-input", "__import__('fcntl').ioctl(0, 0x5412, b'x')"),
    refused(55, "terminal-of-the-operator", "os.open('/dev/tty', os.O_RDWR)"),
    refused(55, "console-paste", "__import__('fcntl').ioctl(0, 0x541c, b'\\x03')"),
    attack(69, "host-name", "import os\nprint('SAFE', '@NODE@' in os.uname().nodename and 'WORKED' or '')", walls=("user",), own=True),
]  # fmt: skip

NETWORK = [
    refused(11, "loopback", "__import__('socket').create_connection(('127.0.0.1', @PORT@), 2).send(b'x')"),
    refused(11, "loopback-6", "__import__('socket').create_connection(('::1', @PORT@), 2).send(b'x')", own=True),
    refused(11, "download", "__import__('urllib.request').request.urlopen('http://127.0.0.1:@PORT@/', timeout=2)"),
    *(
        refused(12, f"socket-{name}", f"s = __import__('socket'); s.socket({family}, {kind})")
        for name, family, kind in (
            ("unix", 1, 1), ("inet", 2, 2), ("inet6", 10, 1), ("netlink", 16, 3), ("packet", 17, 3),
            ("key", 15, 3), ("alg", 38, 5), ("vsock", 40, 1), ("can", 29, 3), ("raw", 2, 3), ("xdp", 44, 3),
        )
    ),
    refused(12, "socket-pair", "__import__('socket').socketpair()", own=True),
    refused(12, "event-loop-with-sockets", "__import__('asyncio').run(__import__('asyncio').sleep(0))", own=True),
    refused(13, "abstract-socket", "s = __import__('socket').socket(1); s.settimeout(2); s.connect('\\0@ABSTRACT@'); s.send(b'x')"),
    refused(13, "listen-for-others", "s = __import__('socket').socket(); s.bind(('0.0.0.0', 0)); s.listen()", own=True),
]  # fmt: skip

SIGNALS = [
    refused(16, "signal-the-parent", "os.kill(os.getppid(), signal.SIGTERM)", word="REACHED"),
    refused(16, "signal-everyone", "os.kill(-1, signal.SIGTERM)", word="REACHED"),
    refused(16, "signal-the-group", "signal.signal(15, signal.SIG_IGN); os.killpg(0, signal.SIGTERM)", word="REACHED"),
    refused(16, "signal-the-host", "os.kill(@HOST@, signal.SIGTERM)", word="REACHED"),
    call(16, "tgkill-of-pid-1", 234, 1, 1, 15, word="REACHED"),
    call(16, "tgkill-of-neighbours", 234, 2, 2, 15, own=True, word="REACHED"),
    call(16, "tkill", 200, "os.getppid()", 15, word="REACHED"),
    call(16, "queued-signal", 129, "os.getppid()", 15, "ctypes.addressof(i)", setup="i = (ctypes.c_int * 32)(15, 0, -1)", word="REACHED"),
    call(16, "signal-through-a-process-descriptor", 424, "d", 15, 0, 0, setup="d = ctypes.CDLL(None).syscall(434, os.getppid(), 0)", word="REACHED"),
    refused(17, "stop-the-parent", "os.kill(os.getppid(), signal.SIGSTOP)", word="REACHED"),
    refused(18, "kill-the-parent", "os.kill(os.getppid(), signal.SIGKILL)", word="REACHED"),
    refused(18, "kill-everyone", "os.kill(-1, signal.SIGKILL)", word="REACHED"),
    refused(18, "kill-the-host", "os.kill(@HOST@, signal.SIGKILL)", word="REACHED"),
    refused(79, "signal-through-fcntl", "__import__('fcntl').fcntl(3, 8, os.getppid())", own=True),
    refused(79, "signal-of-choice-through-fcntl", "__import__('fcntl').fcntl(0, 10, 9)", own=True),
    refused(79, "lease-on-a-library", "__import__('fcntl').fcntl(os.open(os.__file__, 0), 1024, 0)", own=True),
    refused(79, "folder-notices", "__import__('fcntl').fcntl(os.open('/', 0), 1026, 1)", own=True),
    refused(27, "daemon", "os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); [__import__('time').sleep(1) for _ in range(20)]"),
    attack(
        28,
        "grandchild-keeps-the-output-open",
        """
        import os, time
        try:
            if os.fork() == 0:
                if os.fork() == 0: time.sleep(6)
                os._exit(0)
            print('SAFE')
        except OSError: print('SAFE')
        """,
    ),
    refused(28, "spawn", "os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', ':'], {}), 0)", own=True),
    refused(28, "subprocess", "__import__('subprocess').run(['/bin/true'])", own=True),
    refused(28, "shell", "print(os.popen('id').read()); assert os.system('true') == 0 or os.close(-1)", own=True),
    refused(28, "exec", "os.execv('/bin/echo', ['echo', 'WORKED'])", own=True),
    refused(28, "multiprocessing", "__import__('multiprocessing').get_context('fork').Process(target=print).start()", own=True),
]  # fmt: skip

ATTACKS = [*FILES, *SECRETS, *NETWORK, *SIGNALS]
