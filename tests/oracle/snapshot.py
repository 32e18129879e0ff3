"""Reads a snapshot, from section 10 of docs/FORMAT.md and nothing else.

    with open(path, "rb") as file:
        snapshot = Snapshot(file.read())     # checks every checksum
    snapshot.tokens, snapshot.logits, snapshot.rows(layer, ROWS), snapshot.window(layer),
    snapshot.checkpoints[i].n_tokens, .window(layer), .halves ..
"""

import math
import operator
import struct

try:
    import xxhash
except ImportError:
    xxhash = None

PAGE = 4096
MOST_PART_BYTES = 4 << 20
(TOKENS, LOGITS, WINDOW, ROWS, ROW_STATE, INDEX_ROWS, INDEX_STATE, CHECKPOINT_WINDOWS,
 CHECKPOINT_HALVES) = range(1, 10)
KIND_WINDOW, KIND_CSA, KIND_HCA = range(3)
F32, F16, FP8_F16, FP4 = "f32", "f16", "fp8_f16", "fp4"
PROFILES = ((F32, F32, F32), (F16, F32, F32), (FP8_F16, F32, F32), (FP8_F16, FP4, FP8_F16))

HEADER = struct.Struct("<8s4I3Q2I6Q4IQ64s2I")
LAYER = struct.Struct("<4I")
CHECKPOINT = struct.Struct("<2Q2I")
PART = struct.Struct("<6I3Q")
MOST_CHECKPOINTS = 65544
SAVED_TOKENS = 8192  # from one checkpoint that was taken as tokens came to the next


class Damaged(Exception):
    """The file is not a snapshot, or not a whole one."""


def need(condition, message):
    if not condition:
        raise Damaged(message)


def padded(size, multiple=PAGE):
    return -(-size // multiple) * multiple


# ---- XXH3, 64 bits, seed 0 ----------------------------------------------------------------

MASK = (1 << 64) - 1
PRIME32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
PRIME64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")


BLOCK = 1024
BLOCK_SECRETS = b"".join(SECRET[8 * stripe : 8 * stripe + 64] for stripe in range(16))


def words(data, at, count):
    return struct.unpack_from("<%dQ" % count, data, at)


def fold(a, b):
    product = a * b
    return (product & MASK) ^ (product >> 64)


def avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & MASK
    return h ^ h >> 32


def mix16(data, at, secret_at):
    low, high = words(data, at, 2)
    secret_low, secret_high = words(SECRET, secret_at, 2)
    return fold(low ^ secret_low, high ^ secret_high)


def accumulate(lanes, data, secrets):
    """Stripes of 64 bytes; secrets has as many bytes. Few steps of Python: models are large."""
    keys = int.from_bytes(data, "little") ^ int.from_bytes(secrets, "little")
    halves = struct.unpack("<%dI" % (len(data) // 4), keys.to_bytes(len(data), "little"))
    products = list(map(operator.mul, halves[0::2], halves[1::2]))
    values = words(data, 0, len(data) // 8)
    for i in range(8):
        lanes[i] = lanes[i] + sum(products[i::8]) + sum(values[i ^ 1 :: 8]) & MASK


def xxh3_tiny(data):
    """Up to 16 bytes."""
    size = len(data)
    secrets = words(SECRET, 0, 9)
    if size > 8:
        (low,), (high,) = words(data, 0, 1), words(data, size - 8, 1)
        low ^= secrets[3] ^ secrets[4]
        high ^= secrets[5] ^ secrets[6]
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return avalanche(size + swapped + high + fold(low, high) & MASK)
    if size > 3:
        first, last = struct.unpack_from("<I", data)[0], struct.unpack_from("<I", data, size - 4)[0]
        h = last + (first << 32) ^ secrets[1] ^ secrets[2]
        h ^= (h << 49 | h >> 15) & MASK ^ (h << 24 | h >> 40) & MASK
        h = h * 0x9FB21C651E98DF25 & MASK
        h = (h ^ (h >> 35) + size) * 0x9FB21C651E98DF25 & MASK
        return h ^ h >> 28
    h = secrets[7] ^ secrets[8]
    if size > 0:
        low, high = struct.unpack_from("<2I", SECRET)
        h = (data[0] << 16 | data[size // 2] << 24 | data[-1] | size << 8) ^ low ^ high
    h = (h ^ h >> 33) * PRIME64[1] & MASK
    h = (h ^ h >> 29) * PRIME64[2] & MASK
    return h ^ h >> 32


def xxh3_short(data):
    size = len(data)
    h = size * PRIME64[0]
    if size <= 128:
        for i in range((size - 1) // 32 + 1):
            h += mix16(data, 16 * i, 32 * i) + mix16(data, size - 16 * (i + 1), 32 * i + 16)
        return avalanche(h & MASK)
    h += sum(mix16(data, 16 * i, 16 * i) for i in range(8))
    h = avalanche(h & MASK)
    h += sum(mix16(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, size // 16))
    return avalanche(h + mix16(data, size - 16, 136 - 17) & MASK)


def xxh3_own(data):
    size = len(data)
    if size <= 16:
        return xxh3_tiny(data)
    if size <= 240:
        return xxh3_short(data)
    lanes = [PRIME32[2], *PRIME64[:4], PRIME32[1], PRIME64[4], PRIME32[0]]
    striped = (size - 1) // 64 * 64
    for at in range(0, striped, BLOCK):
        block = data[at : min(at + BLOCK, striped)]
        accumulate(lanes, block, BLOCK_SECRETS[: len(block)])
        if len(block) == BLOCK:
            secrets = words(SECRET, 128, 8)
            lanes = [((x ^ x >> 47) ^ s) * PRIME32[0] & MASK for x, s in zip(lanes, secrets)]
    accumulate(lanes, data[size - 64 :], SECRET[192 - 64 - 7 :][:64])
    h = size * PRIME64[0]
    for i in range(4):
        low, high = words(SECRET, 11 + 16 * i, 2)
        h += fold(lanes[2 * i] ^ low, lanes[2 * i + 1] ^ high)
    return avalanche(h & MASK)


def checksum(data):
    return xxhash.xxh3_64_intdigest(data) if xxhash else xxh3_own(data)


# ---- Pages of rows (sections 3 and 4) -----------------------------------------------------

def e4m3(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -magnitude if code & 128 else magnitude


E4M3 = [e4m3(code) for code in range(256)]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def page_bytes(format_, width):
    if format_ == FP8_F16:
        return padded(64 * 584, 576)
    return 64 * {F32: 4 * width, F16: 2 * width, FP4: 68}[format_]


def unpack_row(page, format_, width, row):
    """Values of one row of a page of 64."""
    if format_ in (F32, F16):
        letter, size = ("f", 4) if format_ == F32 else ("e", 2)
        return list(struct.unpack_from("<%d%s" % (width, letter), page, row * width * size))
    if format_ == FP4:
        codes = page[row * 64 : row * 64 + 64]
        scales = page[64 * 64 + row * 4 : 64 * 64 + row * 4 + 4]
        nibbles = [nibble for code in codes for nibble in (code & 15, code >> 4)]
        return [E2M1[nibble] * 2.0 ** (scales[i // 32] - 127) for i, nibble in enumerate(nibbles)]
    data = page[row * 576 : row * 576 + 576]
    scales = page[64 * 576 + row * 8 : 64 * 576 + row * 8 + 8]
    nope = [E4M3[data[i]] * 2.0 ** (scales[i // 64] - 127) for i in range(448)]
    return nope + list(struct.unpack_from("<64e", data, 448))


# ---- The file -------------------------------------------------------------------------------

class Header:
    def __init__(self, page):
        need(page[:8] == b"kvfold\0\0", "no magic")
        need(checksum(page[:4088]) == struct.unpack_from("<Q", page, 4088)[0], "header checksum")
        (_, self.version, self.profile, self.n_layers, self.vocab, self.n_tokens, self.max_tokens,
         self.fingerprint, self.flags, self.n_parts, self.generation, self.index_offset, self.index_bytes,
         self.index_checksum, self.end_bytes, self.inexact_rows, self.n_heads, self.n_index_heads, self.top_k,
         self.window_tokens, self.model_max_tokens, self.program, self.n_checkpoints,
         self.state) = HEADER.unpack_from(page)
        need(self.version in (1, 2), "version %d" % self.version)
        need(not any(page[200:4088]), "zeros of the header")
        need(self.version == 2 or not (self.n_checkpoints or self.state), "version 1 has no checkpoints")
        need(self.n_checkpoints <= MOST_CHECKPOINTS and self.state < 4, "checkpoints, state")


def choose_header(data):
    headers = []
    for at in (0, PAGE):
        try:
            headers.append(Header(data[at : at + PAGE]))
        except (Damaged, struct.error):
            pass
    need(headers, "no header is whole")
    return max(headers, key=lambda header: header.generation)


class Checkpoint:
    def __init__(self, snapshot, number):
        self.snapshot, self.number = snapshot, number
        self.n_tokens, self.inexact_rows, self.why, zero = snapshot.checkpoint_entries[number]
        need(zero == 0 and self.why in (1, 2, 3), "checkpoint %d" % number)

    def window(self, layer):
        """The rows of the last tokens before it, oldest first."""
        snapshot, last = self.snapshot, self.n_tokens
        first = max(0, last - snapshot.header.window_tokens)
        n_pages = -(-last // 64) - first // 64
        return [snapshot.row(CHECKPOINT_WINDOWS, self.number, t - first // 64 * 64 + 64 * n_pages * layer)
                for t in range(first, last)]

    def halves(self):
        """{(layer, width): [(kv, gate) of each token of the last window, Ca alone]}"""
        data, at, found = self.snapshot.streams.get((CHECKPOINT_HALVES, self.number), b""), 0, {}
        for layer, (kind, ratio, _, _) in enumerate(self.snapshot.layers):
            for width in (512, 128) if kind == KIND_CSA else ():
                found[layer, width] = []
                for _ in range(ratio):
                    both = struct.unpack_from("<%df" % (2 * width), data, at)
                    found[layer, width].append((both[:width], both[width:]))
                    at += 8 * width
        return found


class Snapshot:
    def __init__(self, data, decompress=None):
        """decompress(frame, size) where parts are compressed."""
        self.header = header = choose_header(data)
        need(header.end_bytes <= len(data), "the file is too short")
        index = data[header.index_offset : header.index_offset + header.index_bytes]
        parts_at = 16 * header.n_layers + 24 * header.n_checkpoints
        need(header.index_bytes == parts_at + 48 * header.n_parts, "bytes of the index")
        need(checksum(index) == header.index_checksum, "index checksum")
        self.layers = [LAYER.unpack_from(index, 16 * i) for i in range(header.n_layers)]
        self.checkpoint_entries = [CHECKPOINT.unpack_from(index, 16 * header.n_layers + 24 * i)
                                   for i in range(header.n_checkpoints)]
        self.checkpoints = [Checkpoint(self, i) for i in range(header.n_checkpoints)]
        self.check_checkpoints()
        window = PROFILES[header.profile][2]
        self.formats = dict(zip((ROWS, INDEX_ROWS, WINDOW), PROFILES[header.profile]))
        self.formats[CHECKPOINT_WINDOWS] = window
        self.streams = {place: b"" for place in self.places()}
        order = [place for place in self.places() if self.stream_pages(*place)]
        self.part_bytes = []
        for i in range(header.n_parts):
            self.take(PART.unpack_from(index, parts_at + 48 * i), data, order, decompress)
        for place, content in self.streams.items():
            need(len(content) == self.stream_pages(*place) * self.page_bytes(place[0]), "pages of %s" % (place,))
        self.tokens = list(struct.unpack_from("<%di" % header.n_tokens, self.streams[TOKENS, 0]))
        self.logits = list(struct.unpack_from("<%df" % header.vocab, self.streams[LOGITS, 0]))
        need(not any(self.streams[TOKENS, 0][4 * header.n_tokens :]), "zeros after the token ids")

    def check_checkpoints(self):
        before, alignment = 0, math.lcm(*(ratio for kind, ratio, _, _ in self.layers if kind != KIND_WINDOW))
        for checkpoint in self.checkpoints:
            need(before < checkpoint.n_tokens <= self.header.n_tokens, "order of checkpoints")
            need(checkpoint.n_tokens % alignment == 0, "place of a checkpoint")
            before = checkpoint.n_tokens

    def places(self):
        yield TOKENS, 0
        yield LOGITS, 0
        for layer, (kind, _, _, _) in enumerate(self.layers):
            yield WINDOW, layer
            for stream in {KIND_WINDOW: (), KIND_HCA: (ROWS, ROW_STATE),
                           KIND_CSA: (ROWS, ROW_STATE, INDEX_ROWS, INDEX_STATE)}[kind]:
                yield stream, layer
        for number in range(self.header.n_checkpoints):
            yield CHECKPOINT_WINDOWS, number
            yield CHECKPOINT_HALVES, number

    def width(self, stream):
        return 128 if stream in (INDEX_ROWS, INDEX_STATE) else 512

    def page_bytes(self, stream):
        return page_bytes(self.formats[stream], self.width(stream)) if stream in self.formats else PAGE

    def n_rows(self, stream, layer):
        return self.layers[layer][2 if stream == ROWS else 3]

    def window_pages(self, n_tokens):
        """Numbers of the first page and of the one behind the last."""
        held = min(n_tokens, self.header.window_tokens)
        if self.header.version == 1:
            return 0, -(-held // 64)
        return (n_tokens - held) // 64, -(-n_tokens // 64)

    def first_page(self, stream):
        return self.window_pages(self.header.n_tokens)[0] if stream == WINDOW else 0

    def state_bytes(self, stream, layer):
        kind, ratio, _, _ = self.layers[layer]
        parts = 2 if kind == KIND_CSA else 1
        return ratio * parts * 2 * parts * self.width(stream) * 4

    def stream_pages(self, stream, layer):
        if stream == WINDOW:
            first, end = self.window_pages(self.header.n_tokens)
            return end - first
        if stream == CHECKPOINT_WINDOWS:
            first, end = self.window_pages(self.checkpoint_entries[layer][0])
            return len(self.layers) * (end - first)
        if stream == CHECKPOINT_HALVES:
            floats = sum(2 * ratio * (512 + 128) for kind, ratio, _, _ in self.layers if kind == KIND_CSA)
            return -(-4 * floats // PAGE)
        if stream in self.formats:
            return -(-self.n_rows(stream, layer) // 64)
        if stream in (ROW_STATE, INDEX_STATE):
            return -(-self.state_bytes(stream, layer) // PAGE)
        return -(-4 * (self.header.n_tokens if stream == TOKENS else self.header.vocab) // PAGE)

    def take(self, part, data, order, decompress):
        stream, layer, first_page, n_pages, codec, zero, offset, stored, expected = part
        size = n_pages * self.page_bytes(stream)
        need(zero == 0 and codec in (0, 1), "codec %d" % codec)
        need(offset % PAGE == 0 and offset >= 2 * PAGE, "a part at %d" % offset)
        need(offset + stored <= self.header.end_bytes, "a part past the end")
        need(0 < size <= MOST_PART_BYTES, "a part of %d bytes" % size)
        content = self.streams[stream, layer]
        at_page = first_page - self.first_page(stream)
        need(len(content) == at_page * self.page_bytes(stream), "parts of %d, %d are not in order"
             % (stream, layer))
        while order and order[0] != (stream, layer):
            order.pop(0)
        need(order, "a part of %d, %d comes too late" % (stream, layer))
        piece = data[offset : offset + stored]
        need(checksum(piece) == expected, "checksum of a part of %d, %d" % (stream, layer))
        need(not any(data[offset + stored : padded(offset + stored)]), "zeros after a part")
        if codec:
            need(stored < size, "a compressed part is smaller")
            piece = decompress(piece, size)
        need(len(piece) == size, "bytes of a part")
        self.streams[stream, layer] = content + piece
        self.part_bytes.append(stored)

    def row(self, stream, layer, row):
        size = self.page_bytes(stream)
        page = self.streams[stream, layer][row // 64 * size : row // 64 * size + size]
        return unpack_row(page, self.formats[stream], self.width(stream), row % 64)

    def rows(self, layer, stream):
        return [self.row(stream, layer, r) for r in range(self.n_rows(stream, layer))]

    def window(self, layer):
        """The rows of the last tokens, oldest first."""
        last, size = self.header.n_tokens, self.header.window_tokens
        first = max(0, last - size)
        if self.header.version == 1:
            return [self.row(WINDOW, layer, t % size) for t in range(first, last)]
        return [self.row(WINDOW, layer, t - first // 64 * 64) for t in range(first, last)]


# ---- What a first save weighs (section 10.5) --------------------------------------------------

def saved_checkpoints(places):
    """Which of those taken as tokens came go into a file."""
    chosen = []
    for place in places:
        if not chosen or place >= chosen[-1] + SAVED_TOKENS:
            chosen.append(place)
    return chosen


def file_bytes(profile, layers, vocab, window_tokens, n_tokens, checkpoints=()):
    """layers: (kind, ratio) of each; checkpoints: the tokens of those in the file."""
    row, index, window = PROFILES[profile]
    total, n_parts = 2 * PAGE, 0

    def add(size, full, partial, most):
        nonlocal total, n_parts
        whole, rest = divmod(full, most)
        total += whole * padded(most * size) + padded(rest * size) + partial * padded(size)
        n_parts += whole + (rest > 0) + partial

    def add_rows(format_, width, count):
        size = page_bytes(format_, width)
        add(size, count // 64, int(count % 64 > 0), MOST_PART_BYTES // size)

    add(PAGE, n_tokens // 1024, int(n_tokens % 1024 > 0), 1024)
    add(PAGE, -(-vocab // 1024), 0, 1024)
    for kind, ratio in layers:
        first = max(0, n_tokens - window_tokens) // 64
        add(page_bytes(window, 512), n_tokens // 64 - first, int(n_tokens % 64 > 0), 1)
        if kind != KIND_WINDOW:
            parts = 2 if kind == KIND_CSA else 1
            add_rows(row, 512, n_tokens // ratio)
            add(PAGE, parts * ratio * 2 * parts * 512 * 4 // PAGE, 0, 8)
        if kind == KIND_CSA:
            add_rows(index, 128, n_tokens // ratio)
            add(PAGE, 2 * ratio * 2 * 2 * 128 * 4 // PAGE, 0, 8)
    halves = sum(4 * 2 * ratio * (512 + 128) for kind, ratio in layers if kind == KIND_CSA)
    for place in checkpoints:
        pages = -(-place // 64) - max(0, place - window_tokens) // 64
        add(page_bytes(window, 512), len(layers) * pages, 0, MOST_PART_BYTES // page_bytes(window, 512))
        add(PAGE, -(-halves // PAGE), 0, MOST_PART_BYTES // PAGE)
    return total + padded(16 * len(layers) + 24 * len(checkpoints) + 48 * n_parts)


# ---- A file as section 10.5 has it ------------------------------------------------------------

def build(profile, layers, vocab, window_tokens, n_tokens, checkpoints=(), heads=(1, 8, 16), context=4096):
    """A first save of a session whose ids, rows and states are zeros; checkpoints: their tokens."""
    row, index, window = PROFILES[profile]
    parts, body = [], bytearray()

    def put(stream, number, size, first, end, full, most):
        while first < end:
            n_pages = min(most, full - first) if first < full else 1
            content = bytes(n_pages * size)
            parts.append(PART.pack(stream, number, first, n_pages, 0, 0, 2 * PAGE + len(body), len(content),
                                   checksum(content)))
            body.extend(content + bytes(padded(len(content)) - len(content)))
            first += n_pages

    def put_bytes(stream, number, size, most=1024):
        put(stream, number, PAGE, 0, -(-size // PAGE), -(-size // PAGE), most)

    def put_rows(stream, number, format_, width, count):
        size = page_bytes(format_, width)
        put(stream, number, size, 0, -(-count // 64), count // 64, MOST_PART_BYTES // size)

    put(TOKENS, 0, PAGE, 0, -(-n_tokens // 1024), n_tokens // 1024, 1024)
    put_bytes(LOGITS, 0, 4 * vocab)
    for number, (kind, ratio) in enumerate(layers):
        put(WINDOW, number, page_bytes(window, 512), max(0, n_tokens - window_tokens) // 64, -(-n_tokens // 64),
            n_tokens // 64, 1)
        if kind != KIND_WINDOW:
            halves = 2 if kind == KIND_CSA else 1
            put_rows(ROWS, number, row, 512, n_tokens // ratio)
            put_bytes(ROW_STATE, number, halves * ratio * 2 * halves * 512 * 4, 8)
        if kind == KIND_CSA:
            put_rows(INDEX_ROWS, number, index, 128, n_tokens // ratio)
            put_bytes(INDEX_STATE, number, 2 * ratio * 2 * 2 * 128 * 4, 8)
    for number, place in enumerate(checkpoints):
        size = page_bytes(window, 512)
        n_pages = len(layers) * (-(-place // 64) - max(0, place - window_tokens) // 64)
        put(CHECKPOINT_WINDOWS, number, size, 0, n_pages, n_pages, MOST_PART_BYTES // size)
        put_bytes(CHECKPOINT_HALVES, number, sum(8 * r * (512 + 128) for kind, r in layers if kind == KIND_CSA))
    at = b"".join(LAYER.pack(kind, ratio, n_tokens // ratio if ratio else 0, n_tokens // ratio if kind == KIND_CSA else 0)
                  for kind, ratio in layers)
    at += b"".join(CHECKPOINT.pack(place, 0, 2, 0) for place in checkpoints) + b"".join(parts)
    offset = 2 * PAGE + len(body)
    header = HEADER.pack(b"kvfold\0\0", 2, profile, len(layers), vocab, n_tokens, context, 0, 0, len(parts), 1, offset,
                         len(at), checksum(at), offset + padded(len(at)), 0, *heads, window_tokens, context, bytes(64),
                         len(checkpoints), 1)
    header += bytes(PAGE - 8 - len(header))
    header += struct.pack("<Q", checksum(header))
    return header + header + bytes(body) + at + bytes(padded(len(at)) - len(at))
