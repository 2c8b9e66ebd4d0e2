"""The store against real SQLite files, with the failures that disks have."""

import asyncio
import io
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect

from ridgeline.store import database as db
from ridgeline.store.errors import SchemaTooNewError, StoreError, explain
from ridgeline.store.records import ChatSettings, Conversation, StoredMessage
from ridgeline.store.store import Store
from ridgeline.store.tables import metadata


def conversation(name: str = "c1", tenant: str = "ann", updated_ms: int = 10) -> Conversation:
    return Conversation(name, tenant, f"Title of {name}", "tiny", 1, updated_ms)


def message(name: str, parent: str | None = None, position: int = 0, text: str = "Hello") -> StoredMessage:
    role = "assistant" if position % 2 else "user"
    return StoredMessage(name, "c1", parent, position, role, text, "complete", 5 + position)  # type: ignore[arg-type]


def open_to_others(path: Path) -> bool:
    return path.stat().st_mode & 0o077 != 0


@pytest.fixture
async def store(tmp_path: Path):
    store = Store(tmp_path / "data" / "conversations.db")
    await store.open()
    yield store
    await store.close()


async def test_what_is_saved_comes_back_whole(store: Store) -> None:
    answer = replace(
        message("m2", "m1", 1, "Grüße 👋 end"),
        model="tiny",
        finish="stop",
        prompt_tokens=7,
        completion_tokens=9,
        cached_tokens=3,
        context_from=2,
        ttft_ms=20,
        decode_ms=25,
        finished_ms=30,
    )
    await store.save([conversation()], [message("m1"), answer])
    assert await store.conversation("ann", "c1") == conversation()
    assert await store.messages("c1") == [message("m1"), answer]


async def test_saving_again_updates_and_survives_reopening(store: Store) -> None:
    await store.save([conversation()], [message("m1")])
    await store.save([conversation(updated_ms=99)], [message("m1", text="Changed")])
    await store.close()
    await store.open()
    assert (await store.conversation("ann", "c1")).updated_ms == 99  # type: ignore[union-attr]
    assert [row.content for row in await store.messages("c1")] == ["Changed"]


async def test_tenants_do_not_see_each_other(store: Store) -> None:
    await store.save([conversation()], [message("m1")])
    assert await store.conversations("bob", pinned=False) == []
    assert await store.conversation("bob", "c1") is None
    assert await store.conversation_of("bob", "m1") is None
    assert not await store.set_deleted("bob", "c1", 5)
    assert await store.count_conversations("bob", pinned=False) == 0
    assert await store.conversation_of("ann", "m1") == conversation()
    assert await store.count_conversations("ann") == 1


async def test_newest_first_in_pages(store: Store) -> None:
    for number in range(5):
        await store.save([conversation(f"c{number}", updated_ms=number)])
    first = await store.conversations("ann", pinned=False, limit=3)
    rest = await store.conversations("ann", pinned=False, limit=3, before_ms=first[-1].updated_ms)
    assert [row.id for row in first + rest] == ["c4", "c3", "c2", "c1", "c0"]


async def test_deleting_hides_restoring_brings_back_purging_erases(store: Store, tmp_path: Path) -> None:
    await store.save([conversation()], [message("m1"), message("m2", "m1", 1)])
    assert await store.set_deleted("ann", "c1", 50)
    assert await store.conversations("ann", pinned=False) == []
    assert await store.conversation("ann", "c1") is None
    assert await store.purge_deleted(49) == 0
    assert await store.set_deleted("ann", "c1", None)
    assert await store.conversation("ann", "c1") == conversation()
    await store.set_deleted("ann", "c1", 50)
    assert await store.purge_deleted(50) == 1
    assert await store.messages("c1") == []


async def test_unfinished_answers_are_marked_interrupted(store: Store) -> None:
    await store.save([conversation()], [message("m1"), replace(message("m2", "m1", 1), status="streaming")])
    assert await store.interrupt_streaming(77) == 1
    row = (await store.messages("c1"))[1]
    assert (row.status, row.error_code, row.finished_ms, row.content) == (
        "interrupted",
        "server_stopped",
        77,
        "Hello",
    )
    assert await store.interrupt_streaming(78) == 0


async def test_of_two_runs_one_writes_a_message(store: Store) -> None:
    before = replace(message("m2", "m1", 1), status="streaming", run="first")
    await store.save([conversation()], [message("m1"), before])
    after = replace(before, content="Hello again", run="second")
    assert await store.take_over(before, after)
    assert not await store.take_over(before, replace(before, run="third"))
    assert not await store.take_over(replace(after, status="stopped"), replace(after, run="third"))
    assert await store.save([], [replace(before, content="Too late"), message("m3")]) == ["m2"]
    assert await store.message("m2") == after
    assert await store.message("m3") == message("m3")
    assert await store.save([], [replace(after, content="On time")]) == []


async def test_a_failed_save_changes_nothing(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.save([conversation()], [message("m2", parent="nobody", position=1)])
    assert await store.conversation("ann", "c1") is None


async def test_many_writers_at_once(store: Store) -> None:
    await store.save([conversation()])
    await asyncio.gather(*(store.save([], [message(f"m{n}")]) for n in range(40)))
    assert len(await store.messages("c1")) == 40


async def test_connection_settings_and_private_file(store: Store) -> None:
    path = Path(store.database)
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    async with store._transaction() as connection:
        assert (await connection.exec_driver_sql("PRAGMA foreign_keys")).scalar() == 1
        assert (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar() == 5000
    assert [open_to_others(name) for name in (path, path.parent)] == [False, False]


async def test_no_page_looks_at_all_messages_or_sorts_conversations(store: Store) -> None:
    asked: list[tuple[str, object]] = []

    def note(_connection, _cursor, statement, parameters, *_) -> None:  # type: ignore[no-untyped-def]
        asked.append((statement, parameters))

    engine = store._engine.sync_engine  # type: ignore[union-attr]
    event.listen(engine, "before_cursor_execute", note)
    await store.save([conversation()], [message("m1")])
    await store.conversations("ann", pinned=False, limit=1)
    await store.conversations("ann", pinned=True, limit=1, before_ms=50)
    await store.conversation("ann", "c1")
    await store.messages("c1")
    await store.message("m1")
    await store.take_over(message("m1"), message("m1"))
    await store.conversation_of("ann", "m1")
    await store.count_conversations("ann")
    await store.conversation_ids("ann")
    await store.owners(["c1"])
    await store.set_deleted("ann", "c1", None)
    await store.hide_all("ann", 4)
    await store.purge_deleted(5)
    await store.interrupt_streaming(5)
    event.remove(engine, "before_cursor_execute", note)
    queries = [(text, values) for text, values in asked if text.startswith(("SELECT", "UPDATE", "DELETE"))]
    assert len(queries) == 18, "one each, two for a page that is full, three to save"
    async with store._transaction() as connection:
        for text, values in queries:
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)).all()
            steps = [step.detail for step in plan]
            assert all("SCAN" not in step or step == "SCAN CONSTANT ROW" for step in steps), (text, steps)
            sorts = [step for step in steps if "TEMP B-TREE" in step]
            # Messages of one conversation are sorted where several have one place in it.
            assert sorts in ([], ["USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"]), (text, steps)
            assert sorts == [] or "FROM messages" in text


async def test_those_of_one_moment_are_on_one_page(store: Store) -> None:
    for number in range(5):
        await store.save([conversation(f"c{number}", updated_ms=number // 4)])
    first = await store.conversations("ann", pinned=False, limit=2)
    rest = await store.conversations("ann", pinned=False, limit=2, before_ms=first[-1].updated_ms)
    assert [row.id for row in first] == ["c4", "c3", "c2", "c1", "c0"]
    assert rest == []


async def test_pinned_ones_are_a_list_of_their_own(store: Store) -> None:
    await store.save([conversation("c1"), replace(conversation("c2"), pinned=True)])
    assert [row.id for row in await store.conversations("ann", pinned=True)] == ["c2"]
    assert [row.id for row in await store.conversations("ann", pinned=False)] == ["c1"]
    assert await store.count_conversations("ann", pinned=True) == 1
    assert sorted(await store.conversation_ids("ann")) == ["c1", "c2"]


async def test_settings_and_branch_come_back(store: Store) -> None:
    settings = ChatSettings("Be brief.", temperature=0.0, top_p=0.5, max_tokens=7)
    row = replace(conversation(), settings=settings, leaf_id="m2", title_by="model", pinned=True)
    await store.save([row])
    assert await store.conversation("ann", "c1") == row


async def test_adding_never_touches_what_is_there(store: Store) -> None:
    await store.save([conversation(tenant="bob")], [message("m1")])
    with pytest.raises(StoreError):
        await store.add(conversation(), [])
    with pytest.raises(StoreError):
        await store.add(conversation("c2"), [replace(message("m1"), conversation_id="c2")])
    assert await store.conversation("bob", "c1") == conversation(tenant="bob")
    assert await store.conversation("ann", "c2") is None
    await store.set_deleted("bob", "c1", 5)
    many = [f"x{number}" for number in range(1200)]
    assert await store.owners([*many, "c1", "c2"]) == {"c1": ("bob", True)}


def _old_database(path: Path) -> None:
    """A file as version 0001 wrote it, with two conversations in it."""
    with sqlite3.connect(path) as plain:
        plain.execute("PRAGMA journal_mode=WAL")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(db._MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO conversations VALUES ('c1', 'ann', 'Title of c1', 'tiny', 1, 10, NULL), "
            "('c2', 'ann', 'Title of c2', 'tiny', 1, 20, 30)"
        )
        connection.exec_driver_sql(
            "INSERT INTO messages (id, conversation_id, parent_id, position, role, content, status, "
            "created_ms, model, context_from) VALUES "
            "('m1', 'c1', NULL, 0, 'user', 'Grüße', 'complete', 5, '', 0), "
            "('m2', 'c1', 'm1', 1, 'assistant', 'An old answer', 'complete', 5, '', 0), "
            "('m3', 'c1', 'm2', 2, 'user', 'Unfinished', 'streaming', 5, '', 0)"
        )
    engine.dispose()


async def test_an_older_database_keeps_its_conversations(tmp_path: Path) -> None:
    _old_database(tmp_path / "old.db")
    store = Store(tmp_path / "old.db")
    await store.open()
    assert await store.conversations("ann", pinned=False) == [conversation()]
    rows = await store.messages("c1")
    assert [row.content for row in rows] == ["Grüße", "An old answer", "Unfinished"]
    assert [hit.message_id for hit in (await store.search("ann", "OLD ANSWER", limit=5))[0]] == ["m2"]
    assert [hit.message_id for hit in (await store.search("ann", "grÜSSE", limit=5))[0]] == []
    await store.interrupt_streaming(50)
    assert [hit.message_id for hit in (await store.search("ann", "finished", limit=5))[0]] == ["m3"]
    await store.set_deleted("ann", "c2", None)
    assert await store.conversation("ann", "c2") == conversation("c2", updated_ms=20)
    await store.close()


async def test_four_servers_may_migrate_the_same_file_at_once(tmp_path: Path) -> None:
    _old_database(tmp_path / "old.db")
    stores = [Store(tmp_path / "old.db") for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert [len(await store.messages("c1")) for store in stores] == [3] * 4
    for store in stores:
        await store.close()


def test_a_migration_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    _old_database(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        before = _schema(connection)
        db._upgrade(connection)
        assert _schema(connection) != before
        config = Config()
        config.set_main_option("script_location", str(db._MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert _schema(connection) == before
    engine.dispose()


def _schema(connection: Connection) -> dict[str, object]:
    looker = inspect(connection)
    return {
        table: (
            sorted(column["name"] for column in looker.get_columns(table)),
            sorted(str(index["name"]) for index in looker.get_indexes(table)),
        )
        for table in looker.get_table_names()
    }


@pytest.mark.parametrize("revision", ["0001:head", "base:head"])
def test_migrations_say_the_same_to_postgresql(revision: str) -> None:
    """No server is needed to see that every statement can be written in its words."""
    text = io.StringIO()
    config = Config(output_buffer=text)
    config.set_main_option("script_location", str(db._MIGRATIONS))
    config.attributes["dialect"] = "postgresql"
    command.upgrade(config, revision, sql=True)
    assert "ALTER TABLE conversations ADD COLUMN pinned BOOLEAN DEFAULT false NOT NULL" in text.getvalue()
    assert "(tenant, updated_ms, id, pinned) WHERE deleted_ms IS NULL" in text.getvalue()
    assert "ALTER TABLE messages ADD COLUMN run VARCHAR(32)" in text.getvalue()


async def test_a_newer_schema_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    store = Store(path)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as plain:
        plain.execute("UPDATE alembic_version SET version_num='0999'")
    with pytest.raises(SchemaTooNewError, match=r"has schema 0999.*knows only up to 0003.*upgrade"):
        await store.open(or_memory=True)
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("0999",)


async def test_two_servers_may_make_the_same_file_at_once(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "both.db") for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].save([conversation()])
    assert await stores[3].conversation("ann", "c1") == conversation()
    for store in stores:
        await store.close()


async def test_a_folder_that_cannot_be_made_falls_back_to_memory_where_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "conversations.db")
    with pytest.raises(StoreError):
        await store.open()
    await store.open(or_memory=True)
    assert store.problem is not None and "memory only" in store.problem
    await asyncio.gather(*(store.save([conversation(f"c{n}")]) for n in range(5)))
    assert len(await store.conversations("ann", pinned=False)) == 5
    await store.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, and no database at all. " * 50)
    with pytest.raises(StoreError, match="not a database"):
        await Store(path).open()
    assert path.read_text().startswith("These are my notes")


async def test_a_full_database_is_one_sentence(store: Store) -> None:
    await store.save([conversation()], [message("m1")])
    async with store._engine.connect() as connection:  # type: ignore[union-attr]
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar()
    await store.close()

    def limit(connection, _):  # type: ignore[no-untyped-def]
        connection.cursor().execute(f"PRAGMA max_page_count={pages}")

    await store.open()
    event.listen(store._engine.sync_engine, "connect", limit)  # type: ignore[union-attr]
    await store._engine.dispose()  # type: ignore[union-attr]
    full = r"cannot be saved in .*conversations\.db: the disk is full"
    with pytest.raises(StoreError, match=full):
        await store.save([], [message("m2", text="x" * 1_000_000)])
    with pytest.raises(StoreError, match=full):
        await store.add(
            conversation("c2"), [replace(message("m3", text="x" * 1_000_000), conversation_id="c2")]
        )
    assert len(await store.messages("c1")) == 1
    assert await store.conversation("ann", "c2") is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "disk is full"),
        (PermissionError(13, "Permission denied"), "permissions"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only"),
        (sqlite3.OperationalError("database is locked"), "another process"),
        (sqlite3.DatabaseError("database disk image is malformed"), "damaged"),
        (RuntimeError("something else\nsecond line"), "something else"),
    ],
)
def test_failures_are_explained(error: Exception, says: str) -> None:
    text = str(explain("/data/x.db", error))
    assert says in text and "/data/x.db" in text and "\n" not in text


def test_the_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'm.db'}")
    with engine.begin() as connection:
        db._upgrade(connection)
        assert _differences(connection) == []
    engine.dispose()


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def test_the_known_schema_version_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(db._MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == db.SCHEMA_VERSION
