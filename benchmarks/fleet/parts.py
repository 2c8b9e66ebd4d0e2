"""What a measured fleet is made of: processes that can be killed, ways between them, and a made-up model."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

RIDGELINE = (sys.executable, "-c", "from ridgeline.cli.main import main; main()")

SIM = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
"""An 8B model's shape, for simulated replicas."""


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Way:
    """A TCP proxy: what goes through it takes half the round trip, and nothing does while it is cut."""

    def __init__(self, delay_seconds: float) -> None:
        self._delay = delay_seconds
        self.port, self._target = 0, 0
        self.cut = False
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen; `port` is known then."""
        self._server = await asyncio.start_server(self._through, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def lead_to(self, port: int) -> None:
        """Where it leads."""
        self._target = port

    def sever(self) -> None:
        """Cut it, and all that goes through it."""
        self.cut = True
        for writer in list(self._open):
            writer.transport.abort()

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(back)
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except asyncio.CancelledError:
            return  # the whole script ends
        finally:
            for each in (writer, back):
                self._open.discard(each)
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """In order, each piece after its time: a long way is not a narrow one."""
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                when, data = await due.get()
                await asyncio.sleep(max(0.0, when - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        sender = asyncio.create_task(send())
        with contextlib.suppress(OSError):
            while True:
                data = await reader.read(65536)
                due.put_nowait((loop.time() + self._delay / 2, data))
                if not data:
                    break
            await sender
        sender.cancel()


@dataclass
class Part:
    """A process of the fleet that can be killed, and started again as it was."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Not waited for."""
        log = self.log.open("ab")
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | self.environment,
            start_new_session=True,
        )
        log.close()

    async def kill(self) -> None:
        """With all of its own processes, and no word of warning."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    async def change(self) -> None:
        """Told to end, as in a rolling change: it ends what it is at, and starts anew."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await self.process.wait()
        await self.start()


@dataclass
class Replica(Part):
    """A replica, and the way to it."""

    region: str = ""
    port: int = 0
    way: Way = field(default_factory=lambda: Way(0.0))
