"""The document and arrays in a page, read by independent code instead of the page's script."""

import json
import re
import zlib
from base64 import b64decode
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np


class Content(NamedTuple):
    document: dict
    arrays: dict


def content_of(page):
    """Return the document and the float arrays of a page."""
    whole = zlib.decompress(b64decode(re.search(r'id="packed">([^<]*)<', page)[1]))
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
