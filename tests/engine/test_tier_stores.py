"""The tiers themselves: files that are torn, foreign or gone, disks that are full, stores that fail."""

import errno
import os
import queue
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ridgeline.engine.core.copies import Discovered, Drop, Fetched, Load, Record, Restore, Save, Stored
from ridgeline.engine.tiers.disk import DiskStore, FolderInUse, remove_unused
from ridgeline.engine.tiers.mover import Mover
from ridgeline.engine.tiers.store import HostStore

KEY, OTHER = bytes(range(16)), bytes(range(1, 17))


def record(seed: int = 0, size: int = 1000) -> Record:
    content = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return Record(tuple(range(seed, seed + 16)), content)


def same(first: Record | None, second: Record) -> bool:
    return (
        first is not None and first.tokens == second.tokens and bytes(first.content) == bytes(second.content)
    )


@pytest.fixture
def disk(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path, "model")


def file_of(disk: DiskStore, key: bytes = KEY) -> Path:
    (file,) = disk.folder.rglob(f"{key.hex()}.kv")
    return file


def reopened(disk: DiskStore, identity: str = "model") -> DiskStore:
    disk.close()
    return DiskStore(disk.folder.parent, identity)


def test_records_outlive_the_store(disk: DiskStore) -> None:
    disk.write(KEY, record(1))
    disk.write(OTHER, record(2))
    again = reopened(disk)
    assert sorted(key for keys in again.discover() for key in keys) == sorted([KEY, OTHER])
    assert same(again.read(KEY), record(1)) and same(again.read(OTHER), record(2))
    again.delete(KEY)
    assert again.read(KEY) is None
    again.delete(KEY)


def test_files_are_nobody_elses_business(disk: DiskStore) -> None:
    disk.write(KEY, record())
    for path in (disk.folder, file_of(disk).parent, file_of(disk)):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("length", [0, 5, 60, 200, 1000])
def test_a_torn_file_is_not_served(disk: DiskStore, length: int) -> None:
    disk.write(KEY, record())
    os.truncate(file_of(disk), length)
    assert disk.read(KEY) is None


def test_any_damaged_byte_is_noticed(disk: DiskStore) -> None:
    disk.write(KEY, record(size=40))
    whole = file_of(disk).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        file_of(disk).write_bytes(damaged)
        assert disk.read(KEY) is None, f"byte {place}"
    file_of(disk).write_bytes(whole)
    assert same(disk.read(KEY), record(size=40))


def test_a_file_under_anothers_name_is_not_served(disk: DiskStore) -> None:
    disk.write(KEY, record())
    file = file_of(disk)
    (disk.folder / OTHER.hex()[:2]).mkdir(exist_ok=True)
    file.rename(disk.folder / OTHER.hex()[:2] / f"{OTHER.hex()}.kv")
    assert disk.read(OTHER) is None


def test_another_models_files_are_not_seen(disk: DiskStore) -> None:
    disk.write(KEY, record())
    other = reopened(disk, "another model")
    assert list(other.discover()) == [] and other.read(KEY) is None


def test_rubbish_in_the_folder_is_passed_over(disk: DiskStore) -> None:
    disk.write(KEY, record())
    (disk.folder / "zz").mkdir()
    (disk.folder / "zz" / "not hexadecimal at all, is it?.kv").write_text("x")
    (disk.folder / "zz" / f"{OTHER.hex()}.part").write_text("begun")
    (disk.folder / "notes.txt").write_text("x")
    assert list(disk.discover()) == [[KEY]]
    assert not (disk.folder / "zz" / f"{OTHER.hex()}.part").exists()


def test_two_servers_do_not_share_a_models_folder(disk: DiskStore) -> None:
    with pytest.raises(FolderInUse):
        DiskStore(disk.folder.parent, "model")
    reopened(disk).close()


def test_what_no_server_uses_any_more_is_removed_when_it_is_too_much(disk: DiskStore) -> None:
    disk.write(KEY, record(size=5000))
    old = disk.folder
    os.utime(old / "lock", (1, 1))
    newer = reopened(disk, "newer")
    newer.write(KEY, record(size=5000))
    used = reopened(newer, "used")
    used.write(KEY, record(size=5000))
    remove_unused(used.folder.parent, 20_000)
    assert old.exists()
    remove_unused(used.folder.parent, 8_000)
    assert not old.exists() and newer.folder.exists()
    remove_unused(used.folder.parent, 0)
    assert not newer.folder.exists() and same(used.read(KEY), record(size=5000))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from ridgeline.engine.core.copies import Record
from ridgeline.engine.tiers.disk import DiskStore
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
disk = DiskStore(Path(sys.argv[1]), "model")
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    disk.write(bytes(16), Record((1,), np.zeros(1000, np.uint8)))
except OSError as error:
    print(type(error).__name__, error.errno)
print([path.name for path in disk.folder.rglob("*") if path.is_file()])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [f"OSError {errno.EFBIG}", "['lock']"]


class FakeBlocks:
    """Blocks of an executor: what `Mover` needs of one."""

    def __init__(self) -> None:
        self.contents = {block: record(block).content for block in range(8)}
        self.fails = False

    def read_blocks(self, blocks):
        contents = [self.contents[block].copy() for block in blocks]
        if self.fails:
            raise RuntimeError("the device does not read")
        return lambda: contents

    def write_blocks(self, blocks, contents):
        for block, content in zip(blocks, contents, strict=True):
            self.contents[block] = content


class Broken(HostStore):
    """Fails like a disk."""

    def write(self, key, record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, key):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def delete(self, key):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def discover(self):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


class Moving:
    """A mover and its answers."""

    def __init__(self, *stores):
        self.blocks = FakeBlocks()
        self.answers = queue.SimpleQueue()
        self.mover = Mover(self.blocks, stores)
        self.mover.start(self.answers.put)

    def answer(self):
        return self.answers.get(timeout=30)


TOKENS = (tuple(range(16)), tuple(range(16, 32)))


@pytest.mark.parametrize("kind", ["host", "disk"])
def test_what_is_saved_can_be_loaded_into_other_blocks(kind: str, disk: DiskStore) -> None:
    moving = Moving(HostStore() if kind == "host" else disk)
    before = [moving.blocks.contents[block].copy() for block in (1, 2)]
    moving.mover.carry_out(Save(kind, (1, 2), (KEY, OTHER), TOKENS))
    moving.blocks.contents[1][:] = 0  # the next step may overwrite it at once
    assert moving.answer() == Stored(kind, (KEY, OTHER))
    moving.mover.carry_out(Load(7, kind, (KEY, OTHER)))
    fetched = moving.answer()
    assert isinstance(fetched, Fetched) and fetched.ticket == 7
    assert [each.tokens for each in fetched.records if each] == list(TOKENS)
    moving.mover.carry_out(Restore((5, 6), tuple(each.content for each in fetched.records if each)))
    assert all((moving.blocks.contents[5 + i] == before[i]).all() for i in (0, 1))
    moving.mover.carry_out(Drop(kind, (KEY,)))
    moving.mover.carry_out(Save(kind, (3,), (bytes(16),), TOKENS[:1]))
    assert moving.answer() == Stored(kind, (bytes(16),))  # and therefore the drop is done
    moving.mover.carry_out(Load(8, kind, (KEY, OTHER)))
    gone = moving.answer()
    assert isinstance(gone, Fetched) and gone.records == (None,)
    moving.mover.close()


def test_a_tier_that_fails_costs_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    moving = Moving(Broken())
    moving.mover.carry_out(Save("host", (1, 2), (KEY, OTHER), TOKENS))
    assert moving.answer() == Stored("host", (), (KEY, OTHER))
    moving.mover.carry_out(Load(1, "host", (KEY,)))
    fetched = moving.answer()
    assert isinstance(fetched, Fetched) and fetched.records == ()
    moving.mover.carry_out(Drop("host", (KEY,)))
    moving.mover.close()
    assert len([line for line in caplog.messages if "computed again" in line]) == 1


def test_a_file_that_was_deleted_is_missed_and_no_more(disk: DiskStore) -> None:
    moving = Moving(disk)
    moving.mover.carry_out(Save("disk", (1, 2), (KEY, OTHER), TOKENS))
    moving.answer()
    file_of(disk, OTHER).unlink()
    moving.mover.carry_out(Load(1, "disk", (KEY, OTHER)))
    fetched = moving.answer()
    assert isinstance(fetched, Fetched)
    assert [each is None for each in fetched.records] == [False, True]
    moving.mover.close()


def test_what_was_kept_is_told_at_the_start(disk: DiskStore) -> None:
    disk.write(KEY, record())
    moving = Moving(reopened(disk))
    assert moving.answer() == Discovered("disk", (KEY,))
    moving.mover.close()


def test_closing_writes_what_is_on_its_way(disk: DiskStore) -> None:
    moving = Moving(disk)
    for number in range(50):
        moving.mover.carry_out(Save("disk", (1,), (bytes([number] * 16),), TOKENS[:1]))
    moving.mover.close()
    assert len(list(disk.folder.rglob("*.kv"))) == 50
    DiskStore(disk.folder.parent, "model").close()
