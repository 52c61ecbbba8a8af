"""Pages that are loaded once for all tests of a worker."""

from support.browser import page_at  # noqa: F401 (a fixture)
