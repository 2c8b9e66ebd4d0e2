"""Become a command that is killed when its parent ends, however that ends:

    python -m ridgeline.fleet.tied PARENT COMMAND [ARGUMENT ...]

`PARENT` is the parent's process id, `COMMAND` a path. The system ties it to the thread that started it, so
that thread must live as long as the parent. A process that the command starts is not tied.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Does not return."""
    parent, command = int(arguments[0]), list(arguments[1:])
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "the system does not tie this process to its parent")
    # The tie only holds from here on: the parent may have ended before.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
