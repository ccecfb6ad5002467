"""Run what warm-python hands over, each in a fork of an interpreter that has loaded what Ansible's modules need.

In emulation a start of Python with their imports takes two seconds, a fork a tenth of one.
"""

import array
import atexit
import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import types

ADDRESS = "/run/warm-python.sock"
# The standard library and python3-apt only: what Ansible itself brings comes with each module.
MODULES = (
    "__future__ apt apt_pkg argparse ast base64 codecs collections.abc configparser contextlib copy ctypes "
    "dataclasses datetime difflib email.utils enum fcntl filecmp fnmatch functools getpass glob grp hashlib "
    "http.client importlib.resources inspect ipaddress itertools json locale logging math mmap operator pathlib "
    "pickle platform pwd queue random re resource runpy select selectors shlex shutil signal socket stat string "
    "struct subprocess syslog tarfile tempfile textwrap threading time traceback typing unicodedata urllib.parse "
    "urllib.request uuid warnings zipfile zipimport"
)


def run(connection):
    """Become the process that the client was to be, and tell it how that ended."""
    text, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(12))
    files = array.array("i")
    files.frombytes(control[0][2])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    folder, mask, *environment = os.fsdecode(text).split("\0")[:-1]
    os.chdir(folder)
    os.umask(int(mask, 8))
    os.environ.clear()
    os.environ.update(entry.split("=", 1) for entry in environment)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = [""]
    sys.path.insert(0, "")
    exec(compile(sys.stdin.buffer.read(), "<stdin>", "exec"), main.__dict__)  # noqa: S102 # what it is for


def status_of(connection):
    """Return the exit status of a program, as Python itself would have it."""
    try:
        run(connection)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def serve(address, modules):
    """Fork for each program that comes to a socket, for ever."""
    for name in modules:
        importlib.import_module(name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{address}.new")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(f"{address}.new")
    os.chmod(f"{address}.new", 0o600)
    server.listen(64)
    os.rename(f"{address}.new", address)  # is there only once it answers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = status_of(connection)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            connection.send(bytes([status]))
            os._exit(status)
        connection.close()


if __name__ == "__main__":
    del sys.path[0]  # the folder of this program, which other programs do not see
    serve(ADDRESS, MODULES.split())
