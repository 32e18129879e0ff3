#!/usr/bin/env python3
"""Draws the pictures of docs/ except memory.svg, which `kvfold plan --svg` draws.

usage: docs_pictures.py [FOLDER]     writes the SVG files into FOLDER (docs/img)
"""
import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH = 880
# The colours of `kvfold plan --svg`; plain classes, as several renderers lack CSS variables.
STYLE = """
text{font:15px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-size:19px;font-weight:600}.strong{font-weight:600}.note{font-size:14px;fill:#59636e}
.page{fill:#ffffff}.box{fill:#f6f8fa;stroke:#8b949e;stroke-width:1.5}
.stage{fill:#ddf4ff;stroke:#0969da;stroke-width:1.5}
.store{fill:#dafbe1;stroke:#1a7f37;stroke-width:1.5}
.warm{fill:#fff1e5;stroke:#bc4c00;stroke-width:1.5}
.frame{fill:none;stroke:#8b949e;stroke-width:1.5;stroke-dasharray:5 4}
.arrow{fill:none;stroke:#59636e;stroke-width:2}.head{fill:#59636e}
.axis{stroke:#8b949e;stroke-width:1.5}.tick{stroke:#0969da;stroke-width:1.5}
.dot{fill:#0969da}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.note{fill:#b1bac4}.page{fill:#0d1117}.box{fill:#161b22;stroke:#6e7681}
.stage{fill:#0c2d6b;stroke:#58a6ff}.store{fill:#033a16;stroke:#3fb950}
.warm{fill:#4d2d00;stroke:#f0883e}.frame{stroke:#6e7681}
.arrow{stroke:#9198a1}.head{fill:#9198a1}.axis{stroke:#6e7681}.tick{stroke:#58a6ff}
.dot{fill:#58a6ff}
}
"""


class Picture:
    """An SVG under construction: shapes by class, text by class and anchor."""

    def __init__(self, height, title, description):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(description)}</desc>',
            f'<style>{STYLE}</style>',
            f'<rect class="page" width="{WIDTH}" height="{height}"/>']
        self.text(24, 34, title, "title", "start")

    def rect(self, x, y, width, height, kind, radius=4):
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" '
                          f'height="{height:g}" rx="{radius}"/>')

    def text(self, x, y, text, kind="", anchor="middle"):
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">'
                          f'{escape(text)}</text>')

    def box(self, x, y, width, height, kind, *lines):
        """A rectangle with centred lines, the first one strong."""
        self.rect(x, y, width, height, kind)
        first = y + height / 2 + 5 - 10 * (len(lines) - 1)
        for i, line in enumerate(lines):
            self.text(x + width / 2, first + 20 * i, line, "note" if i else "strong")

    def line(self, x1, y1, x2, y2, kind="axis"):
        self.parts.append(f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>')

    def arrow(self, *points):
        """Along the points; the last piece is level or upright."""
        (x0, y0), (x, y) = points[-2:]
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        path = " ".join(f"{px:g},{py:g}" for px, py in points[:-1] + ((x - 6 * dx, y - 6 * dy),))
        self.parts.append(f'<polyline class="arrow" points="{path}"/>')
        back, side = (x - 9 * dx, y - 9 * dy), (5 * dy, 5 * dx)
        self.parts.append(f'<polygon class="head" points="{x:g},{y:g} '
                          f'{back[0] + side[0]:g},{back[1] + side[1]:g} '
                          f'{back[0] - side[0]:g},{back[1] - side[1]:g}"/>')

    def circle(self, x, y):
        self.parts.append(f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="4"/>')

    def __str__(self):
        return "\n".join(self.parts + ["</svg>", ""])


def data_flow():
    p = Picture(470, "The way of the data through one layer",
                "Hidden states are compressed and packed into pages; queries select index rows and "
                "attend to the listed rows and the window.")
    p.box(24, 92, 130, 70, "box", "model", "hidden states")
    p.box(216, 92, 210, 70, "stage", "compress", "4 or 128 tokens to one row")
    p.box(484, 92, 200, 70, "stage", "pack", "a row to its bytes")
    p.arrow((154, 127), (216, 127))
    p.arrow((426, 127), (484, 127))
    p.arrow((90, 92), (90, 70), (584, 70), (584, 92))
    p.text(340, 62, "every token: one window row", "note")

    p.rect(198, 210, 660, 112, "frame")
    p.text(212, 231, "cache: pages of 64 rows, the bytes of the fold profile", "note", "start")
    p.box(216, 244, 210, 62, "store", "index rows", "128 x FP4, 68 bytes")
    p.box(446, 244, 210, 62, "store", "compressed rows", "512 x FP8, 584 bytes")
    p.box(676, 244, 166, 62, "store", "window ring", "the last 128 rows")
    p.arrow((584, 162), (584, 210))

    p.box(24, 370, 130, 70, "box", "model", "queries")
    p.box(216, 370, 210, 70, "stage", "select", "the best 512 of all rows")
    p.box(484, 370, 240, 70, "stage", "attend", "one softmax, with a sink")
    p.box(766, 370, 92, 70, "box", "model", "output")
    p.arrow((154, 405), (216, 405))
    p.arrow((426, 405), (484, 405))
    p.text(455, 395, "list", "note")
    p.arrow((724, 405), (766, 405))
    p.arrow((320, 306), (320, 370))
    p.arrow((560, 306), (560, 370))
    p.arrow((700, 306), (700, 370))
    p.arrow((90, 440), (90, 456), (600, 456), (600, 440))
    return p


def fp8_row():
    p = Picture(330, "One packed row: 584 bytes",
                "448 code bytes in 7 blocks of 64, 128 bytes of rope values, 7 scale bytes and a "
                "zero byte; below, the page that holds 64 of them.")
    for b in range(7):
        p.box(24 + 72 * b, 84, 72, 58, "stage", "64", f"block {b}")
        p.box(706 + 18 * b, 84, 18, 58, "warm", str(b))
        p.line(60 + 72 * b, 142, 60 + 72 * b, 150)
    p.box(536, 84, 150, 58, "store", "64 rope values", "f16, 2 bytes each")
    p.box(832, 84, 22, 58, "box", "0")
    p.text(276, 72, "448 bytes: e4m3 codes", "note")
    p.text(611, 72, "128 bytes", "note")
    p.text(780, 72, "8 bytes: scales", "note")
    p.arrow((769, 142), (769, 168), (276, 168), (276, 152))
    p.text(290, 188, "value = decode(code) * 2^(scale byte of the block - 127)", "", "start")
    p.text(24, 228, "Its page, 64 rows: codes and scales can be fetched on their own", "strong",
           "start")
    p.box(24, 242, 600, 44, "stage", "64 x 576 bytes: codes and rope, row after row")
    p.box(624, 242, 140, 44, "warm", "64 x 8 scales")
    p.box(764, 242, 90, 44, "box", "64 zeros")
    p.text(24, 310, "36,864 + 512 + 64 of padding = 37,440 bytes, a multiple of 576", "note",
           "start")
    return p


def number_lines():
    p = Picture(430, "What the codes can say (positive half, before the scale)",
                "The 8 magnitudes of e2m1 on a line from 0 to 6, and the 127 magnitudes of e4m3 "
                "on a line from 0 to 448 and again by powers of two.")
    left, right = 40, 840

    p.text(24, 72, "e2m1: 8 magnitudes; doubled they are whole numbers", "strong", "start")
    p.line(left, 106, right, 106)
    for value, doubled in zip((0, .5, 1, 1.5, 2, 3, 4, 6), (0, 1, 2, 3, 4, 6, 8, 12)):
        x = left + (right - left) * value / 6
        p.circle(x, 106)
        p.text(x, 130, f"{value:g}")
        p.text(x, 150, f"2x = {doubled}" if value == 6 else str(doubled), "note")

    # Magnitude codes 0 .. 126; 127 is NaN.
    e4m3 = [code * 2.0**-9 if code < 8 else (8 + code % 8) * 2.0**(code // 8 - 10)
            for code in range(127)]
    p.text(24, 202, "e4m3: 127 magnitudes from 0 to 448, as far apart as they are", "strong",
           "start")
    p.line(left, 240, right, 240)
    for value in e4m3:
        x = left + (right - left) * value / 448
        p.line(x, 226, x, 240, "tick")
    for value in (0, 64, 128, 256, 448):
        p.text(left + (right - left) * value / 448, 260, str(value))

    p.text(24, 316, "the same by powers of two: 8 in each from 2^-6 on, steps of 2^-9 below",
           "strong", "start")
    p.line(left, 354, right, 354)

    def place(exponent):
        return left + (right - left) * (exponent + 9) / 18

    for value in e4m3[1:]:
        exponent = 0
        while 2.0**exponent > value:
            exponent -= 1
        while 2.0**(exponent + 1) <= value:
            exponent += 1
        x = place(exponent + value / 2.0**exponent - 1)
        p.line(x, 340, x, 354, "tick")
    for exponent in range(-9, 10, 3):
        p.text(place(exponent), 374, f"2^{exponent}")
    p.text(24, 412, "within a power of two the axis is linear; 448 = 1.75 * 2^8 is the last code",
           "note", "start")
    return p


def score_lanes():
    p = Picture(490, "Scoring: 16 rows across the lanes, one query head at a time",
                "Sixteen index rows lie side by side, one in each vector lane; a query head's "
                "codes are broadcast to all of them, so no sum ever crosses lanes.")
    x0, cell = 250, 37
    p.text(x0 + 8 * cell, 66,
           "a tile: 16 index rows, one in each lane; a cell is a block of 32 codes", "note")
    p.text(122, 66, "query head h", "note")
    for b in range(4):
        y = 76 + 46 * b
        p.box(24, y, 196, 42, "warm", f"32 codes, block {b}")
        for lane in range(16):
            p.rect(x0 + cell * lane, y, cell - 4, 42, "store", 2)
    p.arrow((220, 168), (246, 168))
    for row, (text, why) in enumerate((
            ("d0, d1, d2, d3", "int8 dot, exact"),
            ("s_h = sum of d_b * 2^x_b", "power-of-two scales"),
            ("a_l += w_h * max(s_h, 0)", "l = h mod 8, fma"),
            ("score, after all heads", "8 sums, one tree"))):
        y = 290 + 40 * row
        p.text(24, y + 16, text, "strong", "start")
        p.text(24, y + 34, why, "note", "start")
        for lane in range(16):
            p.rect(x0 + cell * lane, y, cell - 4, 30, "stage", 2)
            if row == 3:
                p.text(x0 + cell * lane + 16, y + 21, f"r{lane}", "note")
    for lane in range(16):
        p.line(x0 + cell * lane + 16, 260, x0 + cell * lane + 16, 290, "arrow")
    p.arrow((x0 + 8 * cell - 2, 440), (x0 + 8 * cell - 2, 458))
    p.text(x0 + 8 * cell - 2, 478, "scores below the floor are dropped; the best k stay")
    return p


def prefixes():
    p = Picture(352, "Three prompts that begin alike, and what the store does",
                "The first prompt is read and stored whole. The second shares its beginning, is "
                "read whole and stored where it leaves the first. The third begins there.")
    left, split, right = 150, 600, 856
    for row, (question, begun, note) in enumerate((
            ("question 1", "warm", "read, and stored whole"),
            ("another question", "warm", "read again; stored where it leaves the first, and whole"),
            ("a third", "store", "found; only the question is read"))):
        y = 62 + 86 * row
        end = right - (0, 40, 90)[row]
        p.text(24, y + 25, f"prompt {row + 1}", "strong", "start")
        p.box(left, y, split - left, 38, begun, "the manual")
        p.box(split, y, end - split, 38, "warm", question)
        p.text(left, y + 60, note, "note", "start")
        if row < 2:
            p.line(end, y - 6, end, y + 44, "axis")
        if row == 1:
            p.line(split, y - 6, split, y + 44, "axis")
    p.rect(left, 322, 16, 14, "warm", 2)
    p.text(left + 24, 334, "read now", "note", "start")
    p.rect(left + 130, 322, 16, 14, "store", 2)
    p.text(left + 154, 334, "from a file", "note", "start")
    p.line(left + 270, 320, left + 270, 338, "axis")
    p.text(left + 280, 334, "a state is stored here", "note", "start")
    return p


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img")
    for draw in (data_flow, fp8_row, number_lines, score_lanes, prefixes):
        (folder / f"{draw.__name__}.svg").write_text(str(draw()), encoding="ascii")


if __name__ == "__main__":
    main()
