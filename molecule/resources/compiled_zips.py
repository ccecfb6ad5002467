"""Keep what Python compiles out of zip archives.

Each task of Ansible sends its module in one, and Python's own cache knows files only. That costs a tenth of a second a
task, and two seconds in emulation; a quarter of them with this. `compiled_zips.pth` loads it at each start of Python on
a host of the test bed, so it imports little itself.
"""

import marshal
import os
import zipimport

FOLDER = "/run/compiled-zips"
_compile = zipimport._compile_source


def _compile_once(pathname, source):
    from _blake2 import blake2b  # noqa: PLC0415 # hashlib would load all of OpenSSL, and most programs have no archive

    name = f"{FOLDER}/{blake2b(source, digest_size=20).hexdigest()}"
    try:
        with open(name, "rb") as kept:
            return marshal.loads(kept.read())
    except OSError:
        code = _compile(pathname, source)
    try:
        os.makedirs(FOLDER, exist_ok=True)
        with open(f"{name}.{os.getpid()}", "wb") as new:
            new.write(marshal.dumps(code))
        os.rename(f"{name}.{os.getpid()}", name)
    except OSError:
        pass  # only root writes there
    return code


zipimport._compile_source = _compile_once
