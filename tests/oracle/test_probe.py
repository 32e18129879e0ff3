"""format_probe itself: nonsense ends it with exit code 2 before the library sees it."""

import shlex
import struct
import subprocess

import oracle
import probe_client
from probe_client import LibraryTest, main, view


class Nonsense(LibraryTest):
    def exit_code(self, data, *options):
        command = shlex.split(self.probe_command) + list(options)
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        self.assertTrue(done.returncode == 0 or done.stderr, "a reason is given")
        return done.returncode

    @staticmethod
    def message(operation, fields, blobs, magic=probe_client.REQUEST_MAGIC):
        head = struct.pack("<4I", magic, operation, len(fields), len(blobs))
        sizes = list(map(len, blobs))
        return head + struct.pack("<%dQ" % (len(fields) + len(blobs)), *fields, *sizes) + b"".join(blobs)

    def test_good_input_ends_well(self):
        self.assertEqual(self.exit_code(b""), 0)
        self.assertEqual(self.exit_code(self.message(1, [], [])), 0)

    def test_broken_framing(self):
        good = self.message(2, [0, 512, 64], [])
        for data in (b"x", good[:-1], good + b"KVF", self.message(2, [0, 512, 64], [], magic=1),
                     self.message(99, [], []), self.message(1, list(range(33)), []),
                     struct.pack("<4IQ", probe_client.REQUEST_MAGIC, 1, 0, 1, 1 << 40)):
            self.assertEqual(self.exit_code(data), 2)

    def test_sizes_that_contradict_the_fields(self):
        pages = oracle.Pages(oracle.F32, 512, 64, 70)
        memory, out = bytes(pages.memory), bytes(2048)
        fields = view(pages)
        self.assertEqual(self.exit_code(self.message(4, fields + [512, 1, 0], [memory, b"", out])), 0)
        bad = [
            (fields + [512, 1, 0], [memory[:-4], b"", out]),
            (fields + [512, 2, 0], [memory, b"", out]),
            (fields + [512, 1, 0], [memory, b"\0", out]),
            (fields + [512, 1, 0, 0], [memory, b"", out]),
            (fields + [512, 1, 0], [memory, b"", out, b""]),
            (fields + [512, 1], [memory, b"", out]),
            (fields + [511, 1, 0], [memory, b"", bytes(4 * 511)]),
            (fields[:2] + [0] + fields[3:] + [512, 1, 0], [memory, b"", out]),
            (fields[:3] + [1 << 63] + fields[4:] + [512, 1, 0], [memory, b"", out]),
            (fields[:4] + [1] + fields[5:] + [512, 1, 0], [bytes(2), b"", out]),
            (fields[:5] + [2] + [512, 1, 0], [memory, b"", out]),
            (fields + [512, 1 << 62, 0], [memory, b"", out]),
        ]
        for request in bad:
            self.assertEqual(self.exit_code(self.message(4, *request)), 2, request[0])

    def test_command_line(self):
        for options in (["--backend"], ["--nothing", "1"], ["--threads", "-1"], ["--threads", "x"]):
            self.assertEqual(self.exit_code(b"", *options), 2)
        for options in (["--backend", "none"], ["--isa", "z80"]):
            self.assertEqual(self.exit_code(b"", *options), 3)


if __name__ == "__main__":
    main()
