"""What is packed in a page."""

import re
import zlib
from base64 import b64decode


def inflated(page):
    """Its script and what that is given."""
    return zlib.decompress(b64decode(re.search(r'id="packed">([^<]*)<', page)[1]))


def content_of(page):
    """What the script is given: the document and the arrays."""
    whole = inflated(page)
    return whole[4 + int.from_bytes(whole[:4], "little") :]
