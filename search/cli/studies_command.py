"""The command that lists studies."""

from __future__ import annotations

from search.cli.options import StorageOption


def studies(storage: StorageOption = None) -> None:
    """The studies that come with Shoebox, and those in the storage."""
    from search.cli.tables import output_console, studies_table
    from search.study import list_studies
    from search.study_file import shipped_studies
    from search.validation import parse_yaml

    console = output_console()
    console.print("Shipped:", highlight=False)
    for name, content in shipped_studies().items():
        description = parse_yaml(content, name).get("description", "")
        console.print(f"  {name:<12} {description}", markup=False, highlight=False, soft_wrap=True)
    found = list_studies(storage)
    if found:
        console.print("In the storage:", highlight=False)
        console.print(studies_table(found))
    else:
        console.print("None in the storage yet.", highlight=False)
