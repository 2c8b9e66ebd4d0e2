"""Opening a database: its connection settings, and bringing its schema up to date."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from ridgeline.store.errors import SchemaTooNewError, explain
from ridgeline.store.folding import contains_folded
from ridgeline.store.search_dialects import search_for

SCHEMA_VERSION = "0003"
MEMORY = "sqlite+aiosqlite://"
_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_TIMEOUT_MS = 5000


async def prepare(database: str | Path) -> None:
    """Find out early whether a database can be used; for a server before it starts.

    Raises:
        StoreError: as `open_database`.
    """
    engine = await open_database(database)
    await engine.dispose()


async def open_database(database: str | Path) -> AsyncEngine:
    """Connect to a file or URL and bring its schema up to date.

    Args:
        database: a file's path, or an SQLAlchemy URL of an async driver (`://` tells them apart).

    Raises:
        StoreError: it cannot be opened, or (`SchemaTooNewError`) knows more than this program.
    """
    try:
        engine = _make_engine(database)
        try:
            await _bring_up_to_date(engine, database)
        except BaseException:
            await engine.dispose()
            raise
    except (SQLAlchemyError, OSError) as error:
        raise explain(_name(database), error) from error
    return engine


async def _bring_up_to_date(engine: AsyncEngine, database: str | Path) -> None:
    # A database that is up to date is only read, so that a read-only one can be shown.
    async with engine.connect() as connection:
        if await connection.run_sync(_is_current, database):
            return
    async with engine.connect() as connection:
        # Of several processes that start at once, one upgrades and the others wait for it.
        await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        if not await connection.run_sync(_is_current, database):
            await connection.run_sync(_upgrade)
            await connection.run_sync(search_for(connection.dialect).prepare)
            await connection.commit()


def _name(database: str | Path) -> str:
    """The database without its password, for messages."""
    if "://" in str(database):
        return make_url(str(database)).render_as_string(hide_password=True)
    return str(database)


def _make_engine(database: str | Path) -> AsyncEngine:
    if "://" in str(database):
        url = str(database)
    else:
        path = Path(database).expanduser().resolve()
        # What people type is theirs alone: neither folder nor file is readable to others.
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))
        url = f"sqlite+aiosqlite:///{path}"
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_pre_ping=True)
    if url == MEMORY:
        # A database in memory lives as long as its one connection.
        engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0)
    else:
        engine = create_async_engine(url)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself: it leaves DDL outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")  # what people delete is overwritten
    cursor.close()
    connection.create_function("contains_folded", 2, contains_folded, deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _is_current(connection: Connection, database: str | Path) -> bool:
    if not inspect(connection).has_table("alembic_version"):
        return False
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    known = {path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}
    if version is not None and version not in known:
        raise SchemaTooNewError(
            f"The database {_name(database)} has schema {version}, but this version of Ridgeline knows "
            f"only up to {SCHEMA_VERSION}: upgrade Ridgeline, or name another database."
        )
    return bool(version == SCHEMA_VERSION) and search_for(connection.dialect).is_ready(connection)


def _upgrade(connection: Connection) -> None:
    # Imported here: a database that is up to date starts without it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, SCHEMA_VERSION)
