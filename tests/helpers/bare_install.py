"""Ask a question of a server that was installed without the test tools: run by .ci/run.

The test tools bring libraries of their own, and could hide that one of ours is not declared.
"""

import importlib.util
import signal
import sys
import tempfile
from pathlib import Path

from server_process import serving


def main() -> None:
    """Serve the default model as `make serve` does, ask it, stop it."""
    for tool in ("pytest", "transformers", "playwright"):
        if importlib.util.find_spec(tool):
            sys.exit(f"{tool} is installed, so this says nothing about a bare installation")
    with tempfile.TemporaryDirectory() as folder, serving(data_dir=Path(folder), seconds=300) as served:
        status, page = served.get("/")
        assert status == 200, status
        assert "<html" in page
        question = {"role": "user", "content": "What is the capital of Germany?"}
        body = {"model": "smollm2-135m", "messages": [question], "temperature": 0, "max_tokens": 20}
        status, answer = served.post("/v1/chat/completions", body)
        assert status == 200, answer
        content = answer["choices"][0]["message"]["content"]
        assert "Berlin" in content, content
        served.process.send_signal(signal.SIGTERM)
        assert served.wait() == 0
    sys.stdout.write(f"{content}\n")


if __name__ == "__main__":
    main()
