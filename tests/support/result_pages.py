"""What stands in a page, read by code of its own: the document and the arrays that its script unpacks."""

import json
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
from support.page_content import content_of as packed_in


class Content(NamedTuple):
    document: dict
    arrays: dict


def content_of(page):
    """Of the text of a page."""
    rest = packed_in(page)
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
    """The tags of a page with their attributes, in order."""
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    return tags
