"""Search in SQLite."""

from typing import Any

from sqlalchemy import ColumnElement, func

from ridgeline.store.search import TextSearch


class SqliteSearch(TextSearch):
    """SQLite's own LIKE knows only the case of ASCII letters; a function of ours knows all."""

    def matches(self, column: ColumnElement[Any], wanted: str) -> ColumnElement[bool]:
        """The condition that a column has a text in it, case aside."""
        return func.contains_folded(column, wanted.casefold()) == 1
