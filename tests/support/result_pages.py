"""The document and arrays in a page, read by independent code instead of the page's script."""

import json
import re
import zlib
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np


class Content(NamedTuple):
    document: dict
    arrays: dict


def from_base_85(text):
    """Decode 5 characters, from "#" to "x" without "<", into 4 bytes. The first 4 bytes are the length."""
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.uint64)
    digits = (codes - 35 - (codes > 60)).reshape(-1, 5)
    data = (digits @ np.array([85**4, 85**3, 85**2, 85, 1], np.uint64)).astype(">u4").tobytes()
    return data[4 : 4 + int.from_bytes(data[:4], "big")]


def content_of(page):
    """Return the document and the float arrays of a page."""
    whole = zlib.decompress(from_base_85(re.search(r'id="packed">([^<]*)<', page)[1]))
    rest = whole[4 + int.from_bytes(whole[:4], "little") :]  # the script comes first
    length, count = np.frombuffer(rest[:8], "<u4").tolist()
    document = json.loads(rest[8 : 8 + length])
    planes = np.frombuffer(rest[8 + length : 8 + length + 4 * count], np.uint8).reshape(4, count)
    floats = np.ascontiguousarray(planes.T).view("<f4").reshape(-1)
    arrays = {
        name: floats[first : first + size]
        for name, (first, size, *in_bytes) in document["arrays"].items()
        if not in_bytes
    }
    return Content(document, arrays)


def markup_of(page):
    """Return the tags of a page with their attributes, in order."""
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    return tags
