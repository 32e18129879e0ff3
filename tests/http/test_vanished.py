"""Peers that vanish without a word, as with a cable: in a network of its own, whose only link goes down."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import unittest

import support
from support import ServerTest, chat, message

INSIDE = "KVF_TEST_OWN_NETWORK"
SKIPPED = 77
IDLE_SECONDS = 4


def set_link(up):
    """The loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags, = struct.unpack("16xH14x", fcntl.ioctl(control, 0x8913, request))  # SIOCGIFFLAGS
        flags = flags | 1 if up else flags & ~1
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", flags))  # SIOCSIFFLAGS, IFF_UP


class Vanished(ServerTest):
    arguments = ("--idle", IDLE_SECONDS, "--stir", 1)

    def test_within_the_idle_timeout(self):
        before = self.server.metric("kvfold_cancelled_total")
        asked = []
        for path, ask in (("/v1/chat/completions", chat), ("/v1/messages", message)):
            for text in ("[queue 60000]", "[wait 60000]", "[say %s][each 300]" % ("a" * 1000)):
                for streams in (False, True):
                    connection = self.server.connect()
                    connection.request("POST", path, ask(text, stream=streams))
                    asked.append(connection)
        self.until(lambda: self.server.metric("kvfold_jobs_total") == len(asked))
        set_link(False)
        begun = time.monotonic()
        try:
            self.until(lambda: self.server.log().count(" /v1/") == len(asked))
            seconds = time.monotonic() - begun
        finally:
            set_link(True)
        self.assertLess(seconds, IDLE_SECONDS + 2)  # asked once a second, and looked at
        # The engine's thread learns of it after the line is written.
        self.until(lambda: self.server.metric("kvfold_cancelled_total") == before + len(asked))


def go_inside():
    unshare = shutil.which("unshare")
    own = [unshare or "unshare", "--user", "--map-root-user", "--net"]
    if not unshare or subprocess.run([*own, "true"], capture_output=True, check=False).returncode != 0:
        print("skipped: a network of one's own is not possible here (Linux, unshare, user namespaces)")
        sys.exit(SKIPPED)
    os.execve(unshare, [*own, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})


if __name__ == "__main__":
    if INSIDE not in os.environ:
        go_inside()
    set_link(True)
    support.main()
