"""A study as a page, a picture or Markdown, for people who were not there."""

from search.report.gather import Report, gather
from search.report.markdown import as_markdown
from search.report.page import as_page

__all__ = ["Report", "as_markdown", "as_page", "gather"]
