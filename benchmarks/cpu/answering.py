"""The worker's end of `children.Worker`, for every environment: nothing but the standard library."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

MARK = "@ "
"""Begins the lines that are answers; a library may have printed others before."""

Answer = Mapping[str, Any]


def answer_requests(facts: Answer, carry_out: Callable[[dict[str, Any]], Answer]) -> None:
    """Tell `facts`, then answer each line of input by a line, until there are no more.

    What fails is told as `error`, and the next request is waited for.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log

    def tell(answer: Answer) -> None:
        out.write(MARK + json.dumps(answer) + "\n")
        out.flush()

    tell(facts)
    for line in sys.stdin:
        try:
            tell(carry_out(json.loads(line)))
        except Exception as error:
            tell({"error": f"{type(error).__name__}: {error}"})


def token_ids(length: int, salt: int, vocab: int) -> list[int]:
    """Ids without meaning: the time does not depend on them. Other salts have other first tokens."""
    return [(7 + 3571 * salt + 13 * i) % (vocab - 1000) + 500 for i in range(length)]
