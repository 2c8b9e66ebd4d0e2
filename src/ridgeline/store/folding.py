"""Finding text regardless of case, in every script that has one."""


def contains_folded(text: str, folded: str) -> bool:
    """Whether a text has in it, case aside, what is already folded (`str.casefold`)."""
    return folded in text.casefold()


def find_folded(text: str, needle: str) -> tuple[int, int] | None:
    """Where `needle` first stands in `text`, case aside: start and end, counted in `text`."""
    folded, wanted = text.casefold(), needle.casefold()
    at = folded.find(wanted)
    if at < 0 or not wanted:
        return None
    if len(folded) == len(text):
        return at, at + len(wanted)
    # Some letters fold to several ("ß" to "ss"): count along until the places are reached.
    start, end, length = 0, len(text), 0
    for index, character in enumerate(text):
        if length <= at:
            start = index
        length += len(character.casefold())
        if length >= at + len(wanted):
            end = index + 1
            break
    return start, end
