"""What can go wrong with a database, each as one sentence with a way out."""

from pathlib import Path

_CAUSES: tuple[tuple[str, str], ...] = (
    ("disk is full", "the disk is full; free some space"),
    ("no space left", "the disk is full; free some space"),
    ("readonly", "it is read-only; check the permissions of the file and its folder"),
    ("read-only", "it is read-only; check the permissions of the file and its folder"),
    ("permission denied", "it may not be opened; check the permissions of the file and its folder"),
    ("unable to open", "it cannot be opened; check that the folder exists and may be written to"),
    ("locked", "another process keeps it locked; stop that process or try again"),
    ("malformed", "the file is damaged; restore a backup or move it away"),
    ("not a database", "the file is not a database; name another one"),
)


class StoreError(Exception):
    """The database cannot be read or written; the message is one sentence for people."""


class SchemaTooNewError(StoreError):
    """The database was written by a later version of this program."""


def explain(database: str | Path, error: BaseException) -> StoreError:
    """Turn a driver's failure into a sentence that names the database and what to do."""
    text = str(getattr(error, "orig", None) or error)
    lowered = text.lower()
    for sign, advice in _CAUSES:
        if sign in lowered:
            return StoreError(f"Conversations cannot be saved in {database}: {advice}.")
    return StoreError(f"Conversations cannot be saved in {database}: {text.splitlines()[0][:200]}.")
