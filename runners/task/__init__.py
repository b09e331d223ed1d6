"""Tasks: the `task:` section of a study, and the texts and labels that it names."""

from __future__ import annotations

from runners.task.load import Examples, Task, load_task
from runners.task.spec import DataSource, FilesData, FolderData, GrammarData, HubData, TaskSpec

__all__ = [
    "DataSource",
    "Examples",
    "FilesData",
    "FolderData",
    "GrammarData",
    "HubData",
    "Task",
    "TaskSpec",
    "load_task",
]
