"""A self-contained HTML page to look at results: no server, no network, no install."""

from .page import Case, write_page

__all__ = ["Case", "write_page"]
