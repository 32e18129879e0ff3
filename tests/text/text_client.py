"""text_probe.c from Python."""

import struct
import subprocess


class Probe:
    """A tokenizer that was opened; `refused` has the message where it was not."""

    def __init__(self, program, path, vocab=0):
        self.process = subprocess.Popen([str(program), str(path), str(vocab)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        first = self.process.stdout.readline().decode()
        self.refused = None if first.startswith("ok ") else first.rstrip("\n")
        self.n_ids = 0 if self.refused is not None else int(first.split()[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        if self.process.wait(60) != 0:
            raise AssertionError("text_probe: exit status %d" % self.process.returncode)

    def _ask(self, what, flags, data):
        self.process.stdin.write(struct.pack("<cBI", what, flags, len(data)) + data)
        self.process.stdin.flush()
        head = self.process.stdout.read(4)
        assert len(head) == 4, "text_probe ended"
        return self.process.stdout.read(struct.unpack("<I", head)[0])

    @staticmethod
    def _bytes(text):
        return text if isinstance(text, bytes) else text.encode()

    def encode(self, text, added=False):
        answer = self._ask(b"e", int(added), self._bytes(text))
        return list(struct.unpack("<%di" % (len(answer) // 4), answer))

    def encode_prompt(self, parts):
        """parts: texts, and markers as lists of one text."""
        data = b"".join(b"\x01" + part[0].encode() + b"\x02" if isinstance(part, list) else self._bytes(part)
                        for part in parts)
        answer = self._ask(b"p", 0, data)
        return list(struct.unpack("<%di" % (len(answer) // 4), answer))

    def decode(self, ids, skip_special=False):
        return self._ask(b"d", int(skip_special), struct.pack("<%di" % len(ids), *ids))

    def kinds(self, ids):
        return list(self._ask(b"k", 0, struct.pack("<%di" % len(ids), *ids)))

    def cut(self, text):
        return struct.unpack("<I", self._ask(b"c", 0, self._bytes(text)))[0]
