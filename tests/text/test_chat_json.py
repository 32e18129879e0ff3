"""JSON is read and written again as Python's json does it; that module is the judge."""
import json
import random
import struct

from chat_probe import ChatTest, main

# Python stops at 4300 digits; whole numbers of any length keep theirs.
VALUES = ["null", "true", "false", "[]", "{}", '""', '{"": [{}, []]}', " [ 1 ,\t2 ]\r\n", "[[[[[[]]]]]]",
          '{"b": 1, "a": 2, "\\u00e9": 3, "B": 4}', '"\\u0000\\u001f\\u007f\\u0080\\u2028\\ufeff\\uffff"',
          '"\\ud83d\\ude00\\uD800\\uDC00\\udbff\\udfff"', '"/ \\/ \\\\ \\" \\b\\f\\n\\r\\t"', '"\x7f\u00e9\u4f60\U0001f600"',
          "-0", "0", "-1", "9223372036854775808", "-" + "9" * 4000, "1.0", "-0.0", "0e5", "-0E-5",
          "1e5", "1E+5", "1e15", "1e16", "1e17", "123456789012345678e0", "1e22", "1e23", "1e-4", "1e-5",
          "0.0001", "0.00001234", "9999999999999998.0", "9999999999999999.0", "1e308", "1e309", "-1e400",
          "1e-400", "5e-324", "2.4703282292062327e-324", "2.4703282292062328e-324",
          "1.7976931348623157e308", "1.7976931348623159e308", "2.2250738585072011e-308", "0.1", "0.3",
          "0.30000000000000004", "5.684341886080801486968994140625e-14", "1" + "0" * 400 + "e-400",
          "0." + "0" * 400 + "1e401", "1e00000000000000000005", "1e-99999999999999999999",
          "1e99999999999999999999", "179769313486231580793" + "0" * 288 + ".0"]

REFUSED = ["", " ", "nul", "nulll", "True", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{", '{"a"', '{"a":',
           '{"a":1', '{"a":1,', '{"a":1,}', "{a:1}", '{"a" 1}', '{1:2}', "{,}", '"', '"a', '"\\', '"\\"', '"\\x"',
           '"\\u"', '"\\u12"', '"\\u12g4"', '"\\u 123"', '"a\nb"', '"a\tb"', '"\x01"', "'a'", "01", "-", "-a", "+1",
           ".5", "1.", "1.e5", "1e", "1e+", "0x1", "1_0", "--1", "- 1", "1 1", "{} {}", "[1]x", "\u00a01", "\f1",
           "// c\n1", "1 // c", "infinity", "nan", "-nan", "Inf", "-Inf"]
ONLY_PYTHON = ["NaN", "Infinity", "-Infinity", "[NaN, -Infinity]"]


def spelled(value):
    return json.dumps(value, ensure_ascii=False)


def random_number(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return str(rng.getrandbits(rng.choice((1, 8, 64, 200))) * rng.choice((1, -1)))
    if kind == 1:  # any double at all
        number = struct.unpack("<d", rng.randbytes(8))[0]
        return repr(number) if number - number == 0 else "0.5"
    if kind == 2:  # about a power of two, where doubles have other neighbours on either side
        exponent = rng.randrange(-1074, 1024)
        bits = struct.unpack("<Q", struct.pack("<d", 2.0 ** exponent))[0] + rng.choice((-1, 0, 0, 0, 1))
        return "%.*e" % (rng.choice((15, 16, 17, 30, 60)), struct.unpack("<d", struct.pack("<Q", bits))[0])
    if kind == 3:  # halfway between two doubles, exactly
        whole = (rng.getrandbits(52) | 1 << 52) * 2 + 1
        return "%de%d" % (whole * 5 ** 20, -20) if rng.random() < 0.5 else "%d.0" % (whole << rng.randrange(10))
    if kind == 4:
        return "%s%d.%se%s%d" % (rng.choice(("", "-")), rng.randrange(1000), "%03d" % rng.randrange(1000),
                                 rng.choice(("", "+", "-")), rng.randrange(30))
    return "%s%d.%d" % (rng.choice(("", "-")), rng.randrange(10 ** rng.randrange(1, 20)),
                        rng.randrange(10 ** rng.randrange(1, 20)))


def random_string(rng):
    pieces = ["a", " ", "\\n", "\\u0007", "\\\\", '\\"', "\\/", "\u00e9", "\\u00e9", "\U0001f600", "\\ud83d\\ude00", "\x7f"]
    return '"' + "".join(rng.choice(pieces) for _ in range(rng.randrange(8))) + '"'


def random_text(rng, depth=0):
    kind = rng.randrange(7 if depth < 5 else 5)
    space = rng.choice(("", "", " ", "\n\t"))
    if kind < 2:
        return random_number(rng)
    if kind < 4:
        return random_string(rng)
    if kind == 4:
        return rng.choice(("null", "true", "false"))
    inside = [random_text(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return "[" + space + (space + ",").join(inside) + space + "]"
    keys = rng.sample(["a", "b", "\\u00e9", "", "a b", "B"], len(inside))
    return "{" + (space + ",").join('"%s"%s:%s%s' % (key, space, space, text)
                                    for key, text in zip(keys, inside)) + space + "}"


class Json(ChatTest):
    def check(self, text, python=False):
        response = self.ask(json=text, python=python)
        self.assertEqual(response, {"written": spelled(json.loads(text))}, repr(text[:500]))

    def test_values(self):
        for text in VALUES:
            for rules in (False, True):
                self.check(text, rules)

    def test_refused_as_python_refuses(self):
        for text in REFUSED:
            with self.assertRaises(ValueError):
                json.loads(text)
            for rules in (False, True):
                self.assertIn("error", self.ask(json=text, python=rules), repr(text))
        for text in ONLY_PYTHON:
            self.check(text, True)
            self.assertIn("error", self.ask(json=text), text)

    def test_every_cut_of_a_text_is_refused(self):
        text = '{"a": [1.5e+3, -2, "\\u00e9\\n\u4f60", true, null], "b": {"c": []}}'
        for end in range(len(text)):
            self.assertIn("error", self.ask(json=text[:end]), text[:end])

    def test_random_texts(self):
        rng = random.Random(1)
        for _ in range(6000):
            self.check(random_text(rng), rng.random() < 0.5)

    def test_random_numbers(self):
        rng = random.Random(2)
        self.check("[" + ",".join(random_number(rng) for _ in range(20000)) + "]")

    def test_random_bytes_changed(self):
        rng = random.Random(3)
        for _ in range(6000):
            text = list(random_text(rng))
            for _ in range(rng.randrange(1, 3)):
                text[rng.randrange(len(text))] = rng.choice('{}[]",:\\0123456789.eE+- \ntruefalsn')
            text = "".join(text)
            try:
                want = {"written": spelled(json.loads(text))}
                json.dumps(want, ensure_ascii=False).encode()  # half a surrogate pair: not here
            except ValueError:
                want = None
            got = self.ask(json=text, python=True)
            self.assertEqual(got if want else "error" in got, want or True, repr(text))

    def test_keys_that_are_there_twice(self):
        for text in ('{"a":1,"a":2}', '{"a":1,"b":2,"a":3,"c":4,"b":5}', '{"a":{"x":1},"\\u0061":[]}',
                     '{"k%d":0,%s,"k3":"new"}' % (0, ",".join('"k%d":%d' % (i, i) for i in range(1, 40)))):
            self.check(text, True)
            self.assertIn("twice", self.ask(json=text)["error"])

    def test_half_a_surrogate_pair_is_no_character(self):
        for text in ('"\\ud800"', '"\\udfff"', '"\\ud800\\ud800"', '"\\ud800x"', '"\\ud800\\n"', '"\\udc00\\ud800"',
                     '"\\ud83d\\u0041"'):
            for rules in (False, True):
                self.assertIn("surrogate", self.ask(json=text, python=rules)["error"], text)

    def test_bounds(self):
        for depth, good in ((500, True), (501, False), (100000, False)):
            for inside in ("[%s]", '{"a":%s}', '[1,{"a":%s}]'):
                n = depth // (2 if "[1" in inside else 1)
                text = inside.replace("%s", "\0")
                head, tail = text.split("\0")
                got = self.ask(json=head * n + ("[]" if depth % 2 and "[1" in inside else "1") + tail * n)
                self.assertEqual("written" in got, good, (depth, inside))
        many = "[" + "1," * 4000000 + "1]"
        self.assertIn("4000000", self.ask(json=many)["error"])

    def test_errors_say_where(self):
        for text, place in (("[1,\n 2,\n  x]", "line 3, column 3: 'x'"), ('{"\u4f60\u597d" 1}', "line 1, column 7: '1'"),
                            ('[\n"ab\n"]', "line 2, column 4"), ("[1", "line 1, column 3: the JSON ends"),
                            ('\n\n{"a":1,\n"a":2}', "line 3, column 1"), ("[01]", "line 1, column 2"),
                            ("[\x01]", "line 1, column 2: '?'"), ("", "line 1, column 1: the JSON ends")):
            self.assertIn(place, self.ask(json=text)["error"], repr(text))


if __name__ == "__main__":
    main()
