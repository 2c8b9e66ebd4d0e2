"""Search over titles and texts, against real SQLite files, with and without the index."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.store import search, sqlite_search
from ridgeline.store.folding import contains_folded, find_folded
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.store.search import Hit
from ridgeline.store.sqlite_search import expression_for
from ridgeline.store.store import Store


def conversation(name: str, title: str = "A title", tenant: str = "ann", at: int = 10) -> Conversation:
    return Conversation(name, tenant, title, "tiny", at, at)


def message(
    name: str, text: str, conversation_id: str = "c1", at: int = 10, **other: object
) -> StoredMessage:
    row = StoredMessage(name, conversation_id, None, 0, "user", text, "complete", at)
    return replace(row, **other)  # type: ignore[arg-type]


@pytest.fixture(params=["index", "no index"])
async def store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    store = Store(tmp_path / "c.db")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no index":
            patch.setattr(sqlite_search, "_is_supported", lambda _: False)
        await store.open()
    yield store
    await store.close()


async def found(store: Store, wanted: str, tenant: str = "ann", limit: int = 20) -> list[str]:
    hits, _ = await store.search(tenant, wanted, limit=limit)
    return [hit.message_id or hit.conversation.id for hit in hits]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello world", "LO WO"),
        ("Übergrößenträger", "ÜBERGRÖẞ"),
        ("Übergröße", "übergrö"),
        ("Привет, мир", "ПРИВЕТ"),
        ("ΑΒΓ δεζ", "γ ΔΕ"),
        ("東京都に住む", "京都"),
        ("猫", "猫"),
        ("a👋🏽b", "👋🏽"),
        ('say "quoted" text', '"quoted"'),
        ("50% of_all", "% of_"),
        ("back\\slash", "k\\s"),
        ("two\nlines", "o\nl"),
        ("NEAR(a b) AND OR NOT ^x* -y", "NEAR(a b) AND OR NOT ^x* -y"),
    ],
)
async def test_case_script_and_signs_do_not_matter(store: Store, text: str, wanted: str) -> None:
    await store.save([conversation("c1")], [message("m1", f"Before {text} after")])
    assert await found(store, wanted) == ["m1"]
    hits, _ = await store.search("ann", wanted, limit=5)
    place = hits[0].text[hits[0].start : hits[0].end]
    assert place.casefold() == wanted.casefold()
    await store.save([conversation("c1", title=f"In {text}")])
    assert await found(store, wanted) == ["c1"]


@pytest.mark.parametrize(
    "wanted",
    ['"', '""', "'", "%", "_", "*", "a*", "^", "(", ")", "AND", "OR", "NOT", "content:x", "- -", "\\",
     '" OR "', "x\x02y", "\x02\x02a", "nn\x03", "{a b}: c", "NEAR/2", ";drop table messages", "\ufffd",
     "a" * 200],
)  # fmt: skip
async def test_hostile_queries_find_nothing_and_break_nothing(store: Store, wanted: str) -> None:
    await store.save([conversation("c1")], [message("m1", "Some text here"), message("m2", "plenty")])
    assert await found(store, wanted) == []
    assert await found(store, "text") == ["m1"]


async def test_titles_come_first_then_texts_the_newest_first(store: Store) -> None:
    for number in range(4):
        name = f"c{number}"
        await store.save(
            [conversation(name, at=number)],
            [
                message(f"m{number}", "needle", name, at=number),
                message(f"n{number}", "needle", name, at=number),
            ],
        )
    await store.save([conversation("t1", "The needle", at=1), conversation("t0", "Needles", at=0)])
    names = await found(store, "needle")
    assert names[:2] == ["t1", "t0"]
    assert [name[1] for name in names[2:]] == ["3", "2", "1", "0"], "each conversation once"
    for limit in range(1, 8):
        hits, more = await store.search("ann", "needle", limit=limit)
        assert (len(hits), more) == (min(limit, 6), limit < 6)


async def test_a_conversation_found_by_its_title_is_not_found_again(store: Store) -> None:
    await store.save([conversation("c1", "needle")], [message("m1", "needle")])
    assert await found(store, "needle") == ["c1"]


async def test_only_what_is_the_tenants_and_not_deleted(store: Store) -> None:
    await store.save(
        [conversation("c1", "My needle"), conversation("c2", "needle", "bob"), conversation("c3", "x")],
        [message("m2", "needle", "c2"), message("m3", "needle", "c3")],
    )
    assert await found(store, "needle") == ["c1", "m3"]
    assert await found(store, "needle", "bob") == ["c2"]
    assert await found(store, "needle", "an") == await found(store, "needle", "annn") == []
    await store.set_deleted("ann", "c3", 5)
    await store.set_deleted("ann", "c1", 5)
    assert await found(store, "needle") == []
    await store.set_deleted("ann", "c3", None)
    assert await found(store, "needle") == ["m3"]
    await store.purge_deleted(5)
    assert await found(store, "needle") == ["m3"]


async def test_what_changes_is_found_as_it_is_now(store: Store) -> None:
    writing = message("m1", "first words", status="streaming", role="assistant")
    await store.save([conversation("c1")], [writing])
    await store.save([], [replace(writing, content="first words and more", status="complete")])
    assert await found(store, "and more") == ["m1"]
    await store.save([], [replace(writing, content="other words", status="stopped")])
    assert await found(store, "first words") == []
    assert await found(store, "other") == ["m1"]
    await store.save([], [replace(writing, content="other words again", status="streaming")])
    await store.interrupt_streaming(7)
    assert await found(store, "again") == ["m1"]


async def test_many_messages_of_one_moment(store: Store) -> None:
    rows = [message(f"m{number}", f"number {number} needle", at=7) for number in range(50)]
    await store.add(conversation("c1"), rows)
    await store.save([conversation("c2")], [message("late", "needle", "c2", at=7)])
    assert sorted(await found(store, "needle"))[1:] == ["m49"] or "late" in await found(store, "needle")
    for number in (0, 13, 49):
        assert await found(store, f"number {number} needle") == [f"m{number}"]


async def test_a_search_that_looks_at_too_much_says_that_there_may_be_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_CANDIDATES", 3)
    rows = [message(f"m{number}", "needle", at=number) for number in range(4)]
    await store.save([conversation("c1")], rows)
    hits, more = await store.search("ann", "needle", limit=5)
    assert (len(hits), more) == (1, True)


async def test_without_an_index_the_newest_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_SCANNED", 2)
    for number in range(3):
        name = f"c{number}"
        await store.save([conversation(name, at=number)], [message(f"m{number}", f"猫 {number}", name)])
    hits, more = await store.search("ann", "猫", limit=5)
    assert ([hit.message_id for hit in hits], more) == (["m2", "m1"], True)
    monkeypatch.setattr(search, "MAX_SCANNED", 3)
    hits, more = await store.search("ann", "猫", limit=5)
    assert (len(hits), more) == (3, False)


async def test_growing_answers_are_not_indexed_at_every_save(tmp_path: Path) -> None:
    store = Store(tmp_path / "c.db")
    await store.open()
    row = message("m1", "needle", status="streaming", role="assistant")
    await store.save([conversation("c1")], [row])
    assert await found(store, "needle") == []
    await store.close()
    with sqlite3.connect(tmp_path / "c.db") as plain:
        assert plain.execute("SELECT count(*) FROM message_search_ids").fetchone() == (0,)


async def test_the_index_forgets_what_is_erased(tmp_path: Path) -> None:
    store = Store(tmp_path / "c.db")
    await store.open()
    await store.save([conversation("c1")], [message("m1", "needle"), message("m2", "more", parent_id="m1")])
    await store.set_deleted("ann", "c1", 5)
    await store.purge_deleted(5)
    await store.close()
    with sqlite3.connect(tmp_path / "c.db") as plain:
        assert plain.execute("SELECT count(*) FROM message_search_ids").fetchone() == (0,)
        match = "SELECT count(*) FROM message_search WHERE message_search MATCH '\"nee\"'"
        assert plain.execute(match).fetchone() == (0,)


async def test_a_python_without_fts5_writes_on_and_the_index_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "c.db")
    await store.open()
    await store.save([conversation("c1")], [message("m1", "early needle")])
    await store.close()
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_search, "_is_supported", lambda _: False)
        await store.open()
        await store.save([], [message("m1", "changed needle"), message("m2", "late needle", at=11)])
        assert await found(store, "needle") != []
        await store.close()
    with sqlite3.connect(tmp_path / "c.db") as plain:
        assert plain.execute("SELECT count(*) FROM sqlite_master WHERE type='trigger'").fetchone() == (0,)
    await store.open()
    assert await found(store, "early") == []
    assert await found(store, "changed needle") == ["m1"]
    assert await found(store, "late needle") == ["m2"]
    await store.close()


async def test_the_index_is_what_a_search_uses(tmp_path: Path) -> None:
    store = Store(tmp_path / "c.db")
    await store.open()
    async with store._transaction() as connection:
        parameters = {"expression": expression_for("ann", "needle"), "tenant": "ann"}
        statement = str(sqlite_search._CANDIDATES.compile(dialect=connection.dialect))
        rows = await connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statement}", (parameters["expression"], parameters["tenant"])
        )
        plan = [row.detail for row in rows]
    assert plan[0].startswith("SCAN message_search VIRTUAL TABLE INDEX")
    assert all(step.startswith("SEARCH") for step in plan[1:]) and len(plan) == 4, "no sorting, no scan"
    await store.close()


@pytest.mark.parametrize("tenant", ["a", "ab", "local", "t" * 255, 'q"uo"te'])
async def test_tenants_of_any_length_are_told_apart(tmp_path: Path, tenant: str) -> None:
    store = Store(tmp_path / "c.db")
    await store.open()
    await store.save(
        [conversation("c1", tenant=tenant), conversation("c2", tenant="somebody")],
        [message("m1", "needle", "c1"), message("m2", "needle", "c2")],
    )
    assert await found(store, "needle", tenant) == ["m1"]
    await store.close()


def test_long_texts_are_looked_for_by_some_of_their_parts() -> None:
    assert expression_for("a", "x" * 200).count("AND") < 10
    assert expression_for("a" * 255, "".join(map(chr, range(0x4E00, 0x4E00 + 200)))).count("AND") < 100


@given(st.text(min_size=1, max_size=12), st.text(max_size=8), st.text(max_size=8))
def test_what_is_found_is_what_was_wanted(wanted: str, before: str, after: str) -> None:
    text = before + wanted.swapcase() + after
    if contains_folded(text, wanted.casefold()):
        place = find_folded(text, wanted)
        assert place is not None
        assert wanted.casefold() in text[slice(*place)].casefold()
    else:
        assert find_folded(text, wanted) is None


@pytest.mark.parametrize(
    ("text", "wanted", "place"),
    [
        ("abc", "B", (1, 2)),
        ("Straße x", "SSE X", (4, 8)),
        ("ßßa", "a", (2, 3)),
        ("aß", "s", (1, 2)),
        ("abc", "", None),
        ("abc", "d", None),
    ],
)
def test_places_are_those_of_the_text_itself(text: str, wanted: str, place: tuple[int, int] | None) -> None:
    assert find_folded(text, wanted) == place


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), max_size=6
    ),
    st.data(),
)
def test_the_index_finds_what_looking_at_all_finds(tmp_path_factory, texts, data) -> None:  # type: ignore[no-untyped-def]
    """With the same letters in both: SQLite folds fewer letters than Python does."""
    source = data.draw(st.sampled_from([text for text in texts if len(text) > 2] or ["abcdef"]))
    start = data.draw(st.integers(0, len(source) - 3))
    wanted = source[start : data.draw(st.integers(start + 3, len(source)))]
    path = tmp_path_factory.mktemp("search") / "c.db"

    async def both() -> tuple[list[Hit], list[str]]:
        store = Store(path)
        await store.open()
        names = [f"c{number}" for number in range(len(texts))]
        await store.save(
            [conversation(name, "\x01") for name in names],
            [message(f"m{name}", text, name) for name, text in zip(names, texts, strict=True)],
        )
        hits, _ = await store.search("ann", wanted, limit=20)
        await store.close()
        return hits, [f"m{name}" for name, text in zip(names, texts, strict=True) if wanted in text]

    hits, expected = asyncio.run(both())
    assert set(expected) <= {hit.message_id for hit in hits}
