"""npm packages that tests compare with, each set pinned by a package-lock.json with its checksums.

`folder()` downloads a set once and may be called by tests that run at the same time. Where it cannot
be had (another platform, no npm, no network) it raises Missing: such a test is skipped, which it
says as "SKIPPED: reason" and with exit status 77. A package that is not the pinned one is a
failure, not a reason to skip.
"""

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXIT_SKIPPED = 77  # what ctest is told to report as skipped
PIN_FILES = ("package.json", "package-lock.json")
NPM = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
       "--fetch-retries=1", "--fetch-timeout=60000"]
TIMEOUT_SECONDS = 180
# npm's codes for: no way to the registry, a registry without the package, another libc.
UNREACHABLE = re.compile(r"\bcode (ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED|ERR_SOCKET\w+|"
                         r"FETCH_ERROR|EBADPLATFORM|E401|E403|E404|E407|E5\d\d)\b")


class Missing(Exception):
    """The packages cannot be had here."""


def skip(reason):
    print("SKIPPED: %s" % reason, flush=True)
    sys.exit(EXIT_SKIPPED)


def install(pins, into, what):
    """npm ci of the set that the folder `pins` describes in the folder `into`."""
    for name in PIN_FILES:
        shutil.copy(pins / name, into)
    try:
        run = subprocess.run(NPM, cwd=into, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Missing("npm ci took more than %d s" % TIMEOUT_SECONDS) from None
    if run.returncode:
        unreachable = UNREACHABLE.search(run.stderr)
        if unreachable:
            raise Missing("npm ci cannot get %s: %s" % (what, unreachable[1]))
        raise RuntimeError("npm ci failed:\n" + run.stderr)


def folder(pins, downloads, name, what):
    """The folder node_modules of the set, below the folder `downloads`; `what` it is for messages."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Missing("%s are pinned for linux-x64 alone" % what)
    downloads = Path(downloads)
    downloads.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join((pins / file).read_bytes() for file in PIN_FILES)).hexdigest()
    installed = downloads / ("%s-%s" % (name, digest[:16]))
    with open(downloads / (name + ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.is_dir():
            if not shutil.which("npm"):
                raise Missing("npm is not here")
            with tempfile.TemporaryDirectory(dir=downloads) as new:
                whole = Path(new) / "whole"
                whole.mkdir()
                install(pins, whole, what)
                whole.rename(installed)  # there with all its files, or not at all
    return installed / "node_modules"
