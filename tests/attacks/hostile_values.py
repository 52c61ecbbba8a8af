"""Hostile values for files and command lines."""

from __future__ import annotations

import json

from support.terminal import EVIL

LONG = "x" * 100_000
NUMBERS = (
    "0", "-1", "1", "2", "3", "7", "0.5", "-0.0", "1e-320", "1e308", "1e999", "-1e999", "2147483647",
    "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "1" + "0" * 400, "1" + "0" * 5000,
)  # fmt: skip
# As text, because json.dumps would not write most of them
JSON = (
    *NUMBERS, "NaN", "Infinity", "-Infinity", "true", "false", "null", '""', '"4"', '"a"', "[]", "{}", "[[]]",
    "[0]", "[1,2,3]", '{"a":1}', '["x"]', "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000,
    json.dumps(LONG), json.dumps(EVIL), r'"\ud800"', r'"\u0000"', '"/"', '".."', '"../x"', '"."',
    '"F32"', '"U64"', '"int64"', '"float8"', '"object"',
)  # fmt: skip
INTS = (0, 1, 2, 3, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
METADATA = (
    0, 1, 2, 3, -1, 2**31, 2**32, 2**63 - 1, 0.0, -1.0, 0.5, float("nan"), float("inf"), 1e308, 1e-320, True,
    False, "", "a", "llama", "gpt2", "yarn", EVIL, LONG, b"\xff\xfe", [], [0], [1, 2], ["a", "b"], [[]],
    [[1], [2]], [EVIL] * 3, [0.5] * 9, [True], list(range(61)), ["a"] * 61,
)  # fmt: skip
PIECES = (
    b"\0", b"\xff", b"\0" * 8, b"\xff" * 8, b"\x7f", b"\n", b"\r", b"\x1b[8m", b"{", b"}", b"[", b"]", b'"',
    b",", b":", b"\\", b"'", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x80\xae", b"NaN", b"-1", b"1e999", b"{{",
    b"{%", b"%}", b"\xef\xbb\xbf", b"\t", b" " * 50, "𝕏é名".encode(), b"9" * 400, b"GGUF", b"APR\0", b"APRT",
    b"PK\x03\x04", b"\x93NUMPY",
)  # fmt: skip
TEXTS = (
    "", " ", "e", "a", "emma", "Emma", "e e", "abcdefghijklmnopqrstuvwxyz", "名前", "é", "\udcff",
    "\n", "\t", "-", "--", "-1", "#5", "#-1", "#99999999999999999999", "␣", "#", "1", "None", "nan", EVIL,
    "[/]", "[bold]", "{}", "%s", "*", "?", "[", "]", "e" * 15, "e" * 16, "e" * 300, LONG, "</s>", "<s>",
    "m.gguf",
)  # fmt: skip
NAMES = (
    EVIL.replace("/", "|"), "\u202egpj", "[bold]", "[/]", "n" * 255, "-", "-x", "--help", "a=b", "a\nb", " ",
    "\udcff", "é" * 127, "*", "a[0]", "layer0", "e", "@3", "~", "$HOME", "con", "a b'\"", "%s", "\x1b[8m",
)  # fmt: skip
