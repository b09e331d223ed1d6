"""A study as one file, to move it between machines and people."""

from search.exchange.receive import Imported, import_study
from search.exchange.send import Bundles, Exported, export_study

__all__ = ["Bundles", "Exported", "Imported", "export_study", "import_study"]
