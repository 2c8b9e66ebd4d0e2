"""The window of a conversation that the model is shown."""

import pytest
from scripted import ScriptedBackend

from ridgeline.protocol import ModelInfo, Refusal
from ridgeline.store.records import StoredMessage
from ridgeline.web.context import newest_path, path_to, shown, window_of

BACKEND = ScriptedBackend()


def model(context: int) -> ModelInfo:
    return ModelInfo("tiny", 1, context, 100, 1000)


def turns(count: int, words: int = 10, context_from: int = 0) -> list[StoredMessage]:
    """`count` messages of `words` tokens each, beginning with a question."""
    return [
        StoredMessage(
            f"m{n}",
            "c",
            f"m{n - 1}" if n else None,
            n,
            "assistant" if n % 2 else "user",
            "w " * words,
            "complete",
            n,
            context_from=context_from if n % 2 else 0,
        )
        for n in range(count)
    ]


async def start(path: list[StoredMessage], context: int, reserve: int = 20) -> int:
    window = await window_of(BACKEND, model(context), path, reserve_tokens=reserve)
    visible = sum(len(message.content.split()) for message in shown(path, window.start))
    assert window.room_tokens == context - visible >= min(reserve, context // 4)
    return window.start


async def test_all_is_shown_while_it_fits() -> None:
    assert await start(turns(7), 90) == 0
    assert await start(turns(7), 89) > 0


async def test_the_window_moves_further_than_needed_then_stays() -> None:
    path = turns(21)
    first = await start(path, 200)
    assert first % 2 == 0
    visible = sum(len(message.content.split()) for message in shown(path, first))
    assert visible <= 0.7 * 180 < visible + 20
    # Some more turns fit before it has to move again.
    later = turns(25, context_from=first)
    assert await start(later, 200) == first


async def test_the_reserve_is_at_most_a_quarter_of_the_context() -> None:
    assert await start(turns(1, words=75), 100, reserve=1000) == 0
    with pytest.raises(Refusal):
        await start(turns(1, words=76), 100, reserve=1000)


async def test_a_long_last_message_is_shown_alone() -> None:
    path = [*turns(4), *turns(5, words=170)[4:]]
    assert await start(path, 200) == 4


async def test_a_message_that_can_never_fit_is_refused_with_numbers() -> None:
    with pytest.raises(Refusal, match=r"has 181 tokens.*can be shown 180.*200 tokens, less 20") as refused:
        await start([*turns(4), *turns(5, words=181)[4:]], 200)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "content")


async def test_an_answer_being_continued_belongs_to_its_question() -> None:
    path = turns(6, words=40)
    first = await start(path, 200)
    assert first == 4
    assert [message.role for message in shown(path, first)] == ["user", "assistant"]


def test_the_newest_branch_is_the_one_shown() -> None:
    rows = turns(2)
    other = StoredMessage("n1", "c", "m0", 1, "assistant", "other", "complete", 50)
    assert [row.id for row in newest_path([*rows, other])] == ["m0", "n1"]
    assert [row.id for row in path_to([*rows, other], rows[1])] == ["m0", "m1"]
    assert newest_path([]) == []


def test_empty_answers_are_not_shown_to_the_model() -> None:
    rows = turns(2)
    empty = StoredMessage("m1", "c", "m0", 1, "assistant", "", "failed", 1)
    assert [message.role for message in shown([rows[0], empty], 0)] == ["user"]
