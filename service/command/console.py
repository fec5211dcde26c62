"""How commands print: documents as JSON, tables by rich."""

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def print_json(document: Any) -> None:
    """Print a JSON-able document for people and programs alike: indented, members in their order."""
    import json

    click.echo(json.dumps(document, indent=2))


def console() -> "Console":
    """Return where tables go: standard output, wide where it is no terminal, with nothing taken for markup."""
    from rich.console import Console

    # A pipe has no width; a table folded for 80 columns is of no use to grep.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240)
