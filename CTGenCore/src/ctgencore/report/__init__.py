"""A self-contained HTML page to look at results: no server, no network, no install."""

from .page import Case, Page, write_page

__all__ = ["Case", "Page", "write_page"]
