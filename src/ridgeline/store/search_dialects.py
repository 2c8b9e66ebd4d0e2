"""Which search a database gets. A better one for PostgreSQL (`pg_trgm`) would be named here."""

from sqlalchemy import Dialect

from ridgeline.store.search import TextSearch
from ridgeline.store.sqlite_search import SqliteSearch


def search_for(dialect: Dialect) -> TextSearch:
    """The best search that is known for a database."""
    return SqliteSearch() if dialect.name == "sqlite" else TextSearch()
