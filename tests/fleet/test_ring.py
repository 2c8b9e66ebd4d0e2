"""Decisions played again from a file."""

import os
import pickle
import random
from pathlib import Path

import pytest

from ridgeline.fleet.core.decisions import Arrival, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.fleet.ring import MAGIC, RingError, record, rewind
from ridgeline.protocol.prefix_keys import prefix_keys


def live_through(door: Door, steps: int, seed: int) -> int:
    """Anything that may happen to a door; how many requests were sent."""
    rng, now, open_requests, sent = random.Random(seed), 100.0, [], 0
    for i in range(5):
        door.joined(Replica(f"r{i}", "us", "a", frozenset({"m"}), 3, 5000.0, 0.0), now)
    for step in range(steps):
        now += rng.random()
        what = rng.choice(
            ["arrive", "arrive", "end", "end", "fail", "full", "told", "report", "leave", "join", "tick"]
        )
        decisions = []
        if what == "arrive":
            text = bytes([rng.randrange(8)]) * 3000
            decisions = door.arrive(
                Arrival(f"q{step}", "m", tuple(prefix_keys("", text)), 3000, rng.choice("ab")), now
            )
        elif what in ("end", "fail", "full") and open_requests:
            name = open_requests.pop(rng.randrange(len(open_requests)))
            if what == "end":
                door.began(name, now)
                decisions = door.ended(name, now, prompt_tokens=700, cached_tokens=64, full_keys=[])
            else:
                decisions = (door.failed if what == "fail" else door.refused_full)(name, now)
        elif what == "told":
            decisions = door.told(f"r{rng.randrange(5)}", Load(now, rng.randrange(3), 3, kv_tokens=5000), now)
        elif what == "report":
            keys = prefix_keys("", bytes([rng.randrange(8)]) * 3000)
            cut, whole = rng.randrange(len(keys)), rng.random() < 0.2
            door.reported(f"r{rng.randrange(5)}", keys[:cut], keys[cut:], whole, now - rng.random(), now)
        elif what == "leave" and rng.random() < 0.1:
            decisions = door.left(f"r{rng.randrange(5)}", now)
        elif what == "join":
            name = f"r{rng.randrange(5)}"
            if name not in door.replicas:
                decisions = door.joined(Replica(name, "us", "a", frozenset({"m"}), 3, 5000.0, now), now)
        else:
            decisions = door.tick(now)
        placed = [each.request for each in decisions if isinstance(each, Send)]
        open_requests += placed
        sent += len(placed)
        door.check()
    return sent


def test_everything_is_decided_again_bit_for_bit(tmp_path: Path) -> None:
    door = Door("us", {}, rng=random.Random(3))
    ring = record(door, tmp_path / "door", 64 << 20)
    sent = live_through(door, 600, 11)
    ring.close()
    played = list(rewind(tmp_path / "door"))
    assert all(each.same for each in played)
    assert sum(each[0] == "send" for one in played for each in one.then) == sent > 100


def test_a_ring_keeps_the_latest_and_no_more(tmp_path: Path) -> None:
    door = Door("us", {}, rng=random.Random(3))
    ring = record(door, tmp_path / "door", 200_000)
    live_through(door, 3000, 11)
    ring.close()
    sizes = [(tmp_path / f"door.{half}").stat().st_size for half in (0, 1)]
    assert sum(sizes) < 300_000
    played = list(rewind(tmp_path / "door"))
    assert all(each.same for each in played) and {each.half for each in played} == {0, 1}
    assert max(each.arguments[-1] for each in played if each.name == "tick") > 1400


def test_a_different_decision_is_seen(tmp_path: Path) -> None:
    door = Door("us", {}, rng=random.Random(3))
    ring = record(door, tmp_path / "door", 64 << 20)
    live_through(door, 50, 11)
    # From outside, which a recording cannot know of.
    for each in door.replicas.values():
        each.slots = 0
        door.changed(each.id)
    door.arrive(Arrival("last", "m", (), 10), 1e6)
    ring.close()
    assert not all(each.same for each in rewind(tmp_path / "door"))


def test_what_a_kill_leaves_half_written_is_the_end(tmp_path: Path) -> None:
    door = Door("us", {}, rng=random.Random(3))
    record(door, tmp_path / "door", 64 << 20)
    live_through(door, 100, 11)
    whole = list(rewind(tmp_path / "door"))
    file = tmp_path / "door.0"
    file.write_bytes(file.read_bytes()[:-7])
    assert len(list(rewind(tmp_path / "door"))) == len(whole) - 1


def test_a_full_disk_ends_the_recording_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door("us", {}, rng=random.Random(3))
    ring = record(door, tmp_path / "door", 64 << 20)
    ring.close()
    ring._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    assert live_through(door, 100, 11) > 10
    assert "No space left on device" in caplog.text and door.witness is None


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/ridgeline-was-here",)


EVIL = pickle.dumps(Evil())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no recording"),
        (b"something else altogether", "is no recording"),
        (MAGIC, "does not begin with a front door"),
        (MAGIC + len(EVIL).to_bytes(4, "little") + EVIL, "is no part of a front door"),
        (MAGIC + b"\xff\xff\xff\xff", "is damaged"),
        (MAGIC + b"\x04\0\0\0ABCD", "is damaged"),
    ],
)
def test_files_of_others_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "door.0").write_bytes(content)
    with pytest.raises(RingError, match=sentence):
        list(rewind(tmp_path / "door"))


def test_names_that_lead_out_of_the_rooms_are_refused(tmp_path: Path) -> None:
    for module, name in (
        ("ridgeline.fleet.core.door", "random._os.system"),
        ("ridgeline.fleet.core.witness", "functools"),
        ("ridgeline.fleet.core.witness", "cast"),
    ):
        content = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
        content += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
        (tmp_path / "door.0").write_bytes(MAGIC + len(content).to_bytes(4, "little") + content)
        with pytest.raises(RingError, match="is no part of a front door"):
            list(rewind(tmp_path / "door"))
