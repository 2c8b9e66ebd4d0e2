"""One front door before three kinds of servers with the same model: ours, llama.cpp's and vLLM's.

    python benchmarks/fleet/mixed.py --peers FOLDER [--users 12] [--chats 10]

The servers share the machine's cores, so this says nothing of their speed: it says whether a mixed fleet
works. Users talk through the front door; in the middle llama.cpp's server is killed, and its answers go on
elsewhere. FOLDER is what `benchmarks/cpu/install_peers.py` made. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.contenders import Contender, Setting
from cpu.llama import LlamaCpp
from cpu.ours import Ridgeline
from cpu.vllm import VllmCpu

PROGRAM = (sys.executable, "-c", "from ridgeline.cli.main import main; main()")
SUBJECTS = "rivers mountains bridges clocks bread maps letters ships roofs gardens wells lamps".split()


class Ours(Ridgeline):
    """Under the fleet's name of the model."""

    served_name = "m"

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """See `Ridgeline.command`."""
        command, environment = super().command(port)
        command[command.index(self.setting.model)] = f"m={self.setting.model}"
        return command, environment


class Llama(LlamaCpp):
    """Telling its load."""

    def _server_options(self, port: int) -> list[str]:
        return [
            *("-np", "8", "-c", "16384", "-t", "2", "--metrics"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]


class Vllm(VllmCpu):
    """Telling its load."""

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """See `VllmCpu.command`."""
        command, environment = super().command(port)
        command.remove("--disable-log-stats")
        return command, environment


def fleet_of(contenders: list[Contender]) -> dict[str, Any]:
    """As fleet.yaml has it."""
    engines = {"Ridgeline": "ridgeline", "llama.cpp Q8_0": "llama.cpp", "vLLM bf16": "vllm"}
    clusters = [
        {
            "name": engines[each.name],
            "engine": engines[each.name],
            "model": "m",
            "endpoints": [each.url],
            "slots": 8,
        }
        for each in contenders
    ]
    return {
        "models": [{"name": "m"}],
        "regions": [{"name": "here", "clusters": clusters}],
        "capacity": {"max_wait_seconds": 120},
    }


async def chat(
    session: aiohttp.ClientSession, url: str, user: int, turns: int, found: dict[str, Any]
) -> None:
    """A conversation: each turn begins with all that was said."""
    rng = random.Random(user)
    messages: list[dict[str, str]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Tell me something new about {rng.choice(SUBJECTS)}."})
        body = {"model": "m", "messages": messages, "max_tokens": 40, "temperature": 0, "stream": True}
        asked, first, text, continued = time.monotonic(), None, "", False
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                found["outcomes"][f"refused {response.status}"] += 1
                messages.pop()
                continue
            server = response.headers["x-served-by"].partition("/")[0]
            ended = False
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    if "error" in event:
                        break
                    for choice in event["choices"]:
                        text += choice["delta"].get("content") or ""
                        continued |= bool(choice.get("continued"))
                    first = first or time.monotonic() - asked
        found["outcomes"]["answered" if ended and text else "broken"] += 1
        found["served_by"][server] += 1
        found["continued"] += continued
        found["stayed"] += turn > 0 and found["last"].get(user) == server
        found["came_back"] += turn > 0
        found["last"][user] = server
        if first is not None:
            found["first"].append(first)
        messages.append({"role": "assistant", "content": text})


async def use(url: str, options: argparse.Namespace, victim: Contender) -> dict[str, Any]:
    """Users talk; in the middle one server is killed."""
    found: dict[str, Any] = {
        "outcomes": Counter(), "served_by": Counter(), "continued": 0, "stayed": 0, "came_back": 0,
        "last": {}, "first": [],
    }  # fmt: skip
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        users = [
            asyncio.create_task(chat(session, url, user, options.chats, found))
            for user in range(options.users)
        ]
        while sum(found["outcomes"].values()) < options.users * options.chats // 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with session.get(f"{url}/fleet/status") as response:
            status = json.loads(await response.read())
        while not any(
            each["sent"] and each["id"].startswith("llama") for each in status["replicas"]
        ) and not all(user.done() for user in users):
            async with session.get(f"{url}/fleet/status") as response:
                status = json.loads(await response.read())
        print("llama.cpp's server is killed", flush=True)
        assert victim.child is not None
        victim.child.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*users)
        async with session.get(f"{url}/fleet/status") as response:
            after = json.loads(await response.read())
    found["missing_metrics"] = {each["id"]: each["missing_metrics"] for each in status["replicas"]}
    found["there_before"] = len(status["replicas"])
    found["there_after"] = len(after["replicas"])
    return found


def main() -> int:
    """Start all, use them, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="see install_peers.py")
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--chats", type=int, default=10, help="turns of each user")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mixed-") as folder:
        logs = Path(folder)
        setting = Setting(options.peers, logs, 2, "smollm2-135m", "auto", "auto", 512)
        contenders: list[Contender] = [Ours(setting), Llama(setting, "Q8_0", serves=True), Vllm(setting)]
        missing = [f"{each.name}: {each.missing()}" for each in contenders if each.missing()]
        if missing:
            sys.exit("; ".join(missing))
        door = None
        try:
            for each in contenders:
                print(f"{each.name} answers after {each.serve():.1f} s", flush=True)
            (logs / "fleet.yaml").write_text(json.dumps(fleet_of(contenders)))
            with (logs / "door.log").open("wb") as log:
                door = subprocess.Popen(
                    [
                        *(*PROGRAM, "fleet", "serve", str(logs / "fleet.yaml"), "--port", "8799"),
                        *("--data-dir", str(logs / "door")),
                    ],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            assert door.stdout is not None
            while "Ctrl-C" not in door.stdout.readline():
                if door.poll() is not None:
                    sys.exit((logs / "door.log").read_text())
            found = asyncio.run(use("http://127.0.0.1:8799", options, contenders[1]))
            warnings = (logs / "door.log").read_text().splitlines()
        finally:
            if door is not None:
                door.kill()
            for each in contenders:
                each.leave()
    first = sorted(found.pop("first"))
    found.pop("last")
    result = {
        "benchmark": "fleet_mixed",
        "users": options.users,
        "turns": options.chats,
        **found,
        "first_token_p50_seconds": statistics.median(first),
        "log": warnings[-12:],
    }
    print(json.dumps(result))
    return 0 if set(result["outcomes"]) == {"answered"} else 1


if __name__ == "__main__":
    sys.exit(main())
