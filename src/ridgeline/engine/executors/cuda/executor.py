"""The executor that computes on an NVIDIA GPU with torch and Triton.

The host prepares step n + 1 while the device computes step n: `launch` packs a step's integers
into staged memory and puts copies and kernels into the device's stream; `collect` waits once, for
the mark behind them. A token that step n draws is handed to step n + 1 on the device.

    host      | launch n | collect n-1, commit, schedule | launch n+1 | collect n, ...
    device    ......| copy in, graph or kernels, copy out of n .......|  n+1 .........
"""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ridgeline.engine.core.plan import Admission, DeviceLostError, Handle, Snapshot, StepPlan, StepResult
from ridgeline.engine.executors.cuda.arrays import (
    ExtraArrays,
    Sizes,
    Staging,
    StepArrays,
    pack,
    packed_length,
    parts_of,
    sizes_of,
    unpack,
)
from ridgeline.engine.executors.cuda.device import CudaDevice, Device, Mark
from ridgeline.engine.executors.cuda.forward import Forward, GraphedDecode, SlotMemory
from ridgeline.engine.executors.cuda.prepare import Prepared, Preparer, padded_batch
from ridgeline.engine.executors.cuda.results import ResultSizes, hand_over, read
from ridgeline.engine.executors.cuda.sampling import CudaSlot, SlotSettings
from ridgeline.engine.executors.cuda.warm_up import warm_up_plans
from ridgeline.engine.executors.gpu_memory import (
    GpuMemory,
    StepLimits,
    check_model_fits,
    plan_gpu_geometry,
    step_bytes,
)
from ridgeline.engine.executors.slots import Slots, checked
from ridgeline.kernels.cuda.kernels import CudaAttention, CudaKernels, GpuLimits
from ridgeline.kernels.cuda.launch import FLOAT8, FLOAT8_CAPABILITY
from ridgeline.kernels.cuda.penalties import count_drawn, fill_counts
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.models.transformer import Transformer
from ridgeline.models.weights import assemble

DTYPES = ("bfloat16", "float16", "float32")
KV_FLOAT8 = "float8"


_live: "weakref.WeakSet[TorchCudaExecutor]" = weakref.WeakSet()
"""Executors of this process: their steps take memory that looks free between them."""


@dataclass(slots=True)
class CudaHandle(Handle):
    """A step in the device's stream.

    Attributes:
        step: what was prepared of the plan.
        output: host memory that the results are on their way to.
        started: mark before the step.
        done: mark behind it.
    """

    step: Prepared
    output: torch.Tensor
    started: Mark
    done: Mark


class TorchCudaExecutor:
    """Runs a model of the Llama family on one GPU. See `Executor`.

    Args:
        files: the model.
        dtype: of weights and sums between layers: bfloat16 (`auto`), float16, float32.
        kv_dtype: of the KV cache: that of the weights (`auto`), or float8 where the GPU has it.
        kv_memory_bytes: size of the KV cache. None takes what weights and workspace leave.
        max_batch: most sequences in a step.
        max_batch_tokens: most tokens in a step.
        max_context_tokens: most tokens of a sequence; None is the model's own limit. It is lowered
            to what the KV cache holds.
        device_index: which GPU.
        device: instead of a GPU, for tests.

    Raises:
        ModelError: for a dtype that GPUs are not used with or this one has not, or too little memory.
    """

    depth = 1

    def __init__(
        self,
        files: ModelFiles,
        *,
        dtype: str,
        kv_dtype: str = "auto",
        kv_memory_bytes: int | None,
        max_batch: int,
        max_batch_tokens: int,
        max_context_tokens: int | None,
        device_index: int = 0,
        device: Device | None = None,
    ) -> None:
        self._device = device = device or CudaDevice(device_index)
        config = files.config
        self.dtype = resolve_dtype(dtype)
        self.kv_dtype = resolve_kv_dtype(kv_dtype, self.dtype, device.capability)
        torch_dtype = getattr(torch, self.dtype)
        self.hardware = device.hardware()
        context = min(max_context_tokens or config.max_context, config.max_context)
        limits = StepLimits(max_batch, max_batch_tokens, context)
        check_model_fits(files.name, config, torch_dtype, limits, self._gpu_memory(), kv_dtype=self.kv_dtype)
        where = device.torch_device
        kernels = CudaKernels(
            where,
            GpuLimits(device.processors, device.shared_memory_bytes),
            padded_batch(max_batch),
            device.kernels_name,
        )
        weights = assemble(config, files.tensors(where), kernels, torch_dtype, where)
        self.geometry = plan_gpu_geometry(
            config, torch_dtype, limits, self._gpu_memory(), kv_memory_bytes, kv_dtype=self.kv_dtype
        )
        model = Transformer(
            config,
            weights,
            kernels,
            blocks=self.geometry.blocks,
            block_size_tokens=self.geometry.block_size_tokens,
            max_positions=self.geometry.max_context_tokens,
            kv_dtype=FLOAT8 if self.kv_dtype == KV_FLOAT8 else torch_dtype,
        )
        self.kernels = kernels.name
        stored = "" if self.kv_dtype == self.dtype else f"-kv-{self.kv_dtype}"
        self.fingerprint = f"{files.fingerprint}-{self.dtype}-{self.kernels}{stored}"
        self._start(model, config.vocab)
        device.settle()
        self._max_batch_tokens = max_batch_tokens
        self._step_bytes = step_bytes(config, torch_dtype, limits, device.processors)
        _live.add(self)

    def _gpu_memory(self) -> GpuMemory:
        """What is left, less the steps of other executors, which take their memory when they come."""
        device = self._device
        promised = sum(
            other._step_bytes for other in _live if other._device.torch_device == device.torch_device
        )
        return GpuMemory(device.total_bytes, max(0, device.free_bytes() - promised), device.processors)

    def _start(self, model: Transformer, vocab: int) -> None:
        """State of the slots, on the host and on the device."""
        max_batch, where = self.geometry.max_batch, self._device.torch_device
        attention = model.attention
        assert isinstance(attention, CudaAttention), "a model prepared by other kernels"
        self._attention = attention
        self._slots = Slots(self.geometry, CudaSlot.of, device_tables=True)
        self._settings = SlotSettings(max_batch)
        self._preparer = Preparer(attention, self._settings, vocab, self._slots.width)
        self._memory = SlotMemory(
            torch.zeros(max_batch, self._slots.width, dtype=torch.int32, device=where),
            torch.zeros(max_batch, dtype=torch.int32, device=where),
        )
        self._vocab = vocab
        self._forward = Forward(model, attention, self._memory)
        self._decodes: dict[tuple[Sizes, bool], GraphedDecode] = {}
        self._inputs = Staging(self._device, 1 << 16)
        self._outputs = Staging(self._device, 1 << 10)
        self._in_flight = 0
        self._turn = 0

    @property
    def recorded_batch_sizes(self) -> list[int]:
        """Batch sizes for which a graph stands, ascending."""
        return sorted({sizes[0] for (sizes, _), decode in self._decodes.items() if decode.recorded})

    def launch(self, plan: StepPlan) -> CudaHandle:
        """Put a step into the device's stream.

        Raises:
            ValueError: for a plan that cannot be carried out; nothing is changed then.
            DeviceLostError: the device failed for good.
        """
        if self._in_flight > self.depth:
            raise ValueError("a third step is launched before the first was collected")
        grown = self._slots.apply(plan)
        for admission in plan.admissions:
            self._settings.admit(admission.slot, self._slots[admission.slot])
        layout = self._slots.lay_out(plan.rows)
        counted = [a for a in plan.admissions if self._slots[a.slot].penalised]
        step = self._preparer.prepare(plan.rows, layout, self._slots, grown, counted)
        staged = self._stage(step)
        output = self._outputs.take(self._turn, ResultSizes.of(step).integers)
        with _lost_devices_told():
            try:
                started = self._device.mark()
                self._device.submit(partial(self._carry_out, step, counted, staged, output))
                done = self._device.mark()
            except Exception:
                # Part of it may be in the stream, still to read the buffers that the next step takes.
                self._device.mark().wait()
                raise
        self._in_flight += 1
        self._turn ^= 1
        return CudaHandle(plan, step, output, started, done)

    def collect(self, handle: Handle) -> StepResult:
        """Wait for a step and read what it drew.

        Raises:
            DeviceLostError: the device failed for good.
        """
        assert isinstance(handle, CudaHandle)
        self._in_flight -= 1
        with _lost_devices_told():
            handle.done.wait()
        seconds = handle.done.seconds_since(handle.started)
        return StepResult(read(handle.step, handle.output), seconds)

    def read_blocks(self, blocks: Sequence[int]) -> Snapshot:
        """See `Executor.read_blocks`. Copied on the device at once, to the host behind it."""
        count, attention = len(blocks), self._attention
        index = self._device.pinned(count)
        index.numpy()[:] = blocks
        host = self._device.pinned(count * self.geometry.block_bytes // 4).view(torch.uint8)

        @torch.inference_mode()
        def copy() -> None:
            chosen = index.to(self._device.torch_device, non_blocking=True)
            host.copy_(attention.read_blocks(chosen).flatten(), non_blocking=True)

        with _lost_devices_told():
            self._device.submit(copy)
            done = self._device.mark()

        def contents() -> list[Any]:
            done.wait()
            return list(host.view(count, -1).numpy())

        return contents

    def write_blocks(self, blocks: Sequence[int], contents: Sequence[Any]) -> None:
        """See `Executor.write_blocks`."""
        wanted = checked(contents, self.geometry.block_bytes)
        count, attention = len(blocks), self._attention
        index = self._device.pinned(count)
        index.numpy()[:] = blocks
        host = self._device.pinned(count * self.geometry.block_bytes // 4).view(torch.uint8).view(count, -1)
        np.stack(wanted, out=host.numpy())

        @torch.inference_mode()
        def copy() -> None:
            device = self._device.torch_device
            chosen = index.to(device, non_blocking=True).long()
            attention.write_blocks(chosen, host.to(device, non_blocking=True))

        with _lost_devices_told():
            self._device.submit(copy)

    def warm_up(self) -> None:
        """Compute the largest step and some small ones, so that no request waits for a compiler.

        What does not fit into memory fails here and not under load. The KV written is nobody's.

        Raises:
            ModelError: these steps do not fit into the memory that is left.
        """
        plans = warm_up_plans(self.geometry, self._max_batch_tokens)
        try:
            for plan in plans:
                self.collect(self.launch(plan))
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"a step of {plans[0].tokens} tokens does not fit into the GPU memory that is left; lower "
                "--max-batch-tokens or --kv-memory."
            ) from error

    def close(self) -> None:
        """Give weights and KV cache back to the device."""
        _live.discard(self)
        with contextlib.suppress(torch.AcceleratorError):  # a lost device has nothing to give back
            self._device.mark().wait()  # graphs must not be destroyed while they run
            self._decodes.clear()
            del self._forward, self._memory, self._preparer, self._attention
            self._device.close()

    def _stage(self, step: Prepared) -> torch.Tensor:
        """Everything the device needs of a step, in host memory that it can copy from."""
        first = packed_length(sizes_of(step.arrays))
        total = first + packed_length(sizes_of(step.extras))
        staged = self._inputs.take(self._turn, total)[:total]
        pack(parts_of(step.arrays), staged.numpy())
        pack(parts_of(step.extras), staged.numpy()[first:])
        return staged

    @torch.inference_mode()
    def _carry_out(
        self, step: Prepared, counted: list[Admission], staged: torch.Tensor, output: torch.Tensor
    ) -> None:
        """The device's part, in its stream."""
        sizes = sizes_of(step.arrays)
        first = packed_length(sizes)
        extras = self._extras(step, staged[first:])
        lengths = [len(admission.token_ids) for admission in counted]
        for admission, token_ids in zip(counted, extras.known.split_with_sizes(lengths), strict=True):
            self._count(admission, token_ids.long())
        if self._memory.counts is not None and len(extras.given):
            count_drawn(self._memory.counts, extras.given_slots, extras.given)
        if not len(step.logits):  # a plan may do no more than release
            return
        if step.decode_tiles and not step.special:
            hand_over([self._decode(sizes, draws=True).run(staged[:first]).tokens], output)
            return
        if step.decode_tiles:
            decode = self._decode(sizes, draws=False)
            arrays, computed = decode.arrays, decode.run(staged[:first]).computed
        else:
            packed = staged[:first].to(self._device.torch_device, non_blocking=True)
            arrays = unpack(StepArrays, packed, sizes)
            computed = self._forward.compute(arrays, all_rows=False)
        if step.special:
            results = self._forward.draw_adjusted(arrays, computed.logits, extras, step.top)
        else:
            results = [self._forward.draw(arrays, computed.logits)]
        if len(extras.prompt_index):
            results += self._forward.score_prompt(computed.hidden, extras, step.prompt_top)
        hand_over(results, output)

    def _extras(self, step: Prepared, staged: torch.Tensor) -> ExtraArrays[torch.Tensor]:
        """Bring what few steps need to the device, new blocks into the tables among it."""
        packed = staged.to(self._device.torch_device, non_blocking=True)
        extras = unpack(ExtraArrays, packed, sizes_of(step.extras))
        if len(extras.table_index):
            self._memory.tables.view(-1).index_copy_(0, extras.table_index.long(), extras.table_block)
        return extras

    def _count(self, admission: Admission, token_ids: torch.Tensor) -> None:
        """Tokens that a sequence with penalties begins with."""
        if self._memory.counts is None:
            size = (self.geometry.max_batch, self._vocab)
            self._memory.counts = torch.zeros(size, dtype=torch.int32, device=self._device.torch_device)
        prompt, answer = token_ids.tensor_split((admission.prompt_tokens,))
        fill_counts(self._memory.counts, admission.slot, prompt, answer)

    def _decode(self, sizes: Sizes, *, draws: bool) -> GraphedDecode:
        key = (sizes, draws)
        if key not in self._decodes:
            self._decodes[key] = GraphedDecode(self._forward, self._device, sizes, draws=draws)
        return self._decodes[key]


@contextlib.contextmanager
def _lost_devices_told() -> Iterator[None]:
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLostError(str(error)) from error


def resolve_dtype(dtype: str) -> str:
    """The dtype to compute in, for what was asked for.

    Raises:
        ModelError: for one that the device does not compute in.
    """
    if dtype == "auto":
        return "bfloat16"
    if dtype not in DTYPES:
        raise ModelError(
            f"--dtype {dtype} is not supported on CUDA; choose auto or one of {', '.join(DTYPES)}."
        )
    return dtype


def resolve_kv_dtype(kv_dtype: str, dtype: str, capability: int) -> str:
    """What to store K and V in, for what was asked for, beside a dtype to compute in.

    Args:
        kv_dtype: what was asked for.
        dtype: to compute in.
        capability: of the GPU; see `Device.capability`.

    Raises:
        ModelError: for what the kernels do not read, or the GPU does not have.
    """
    if kv_dtype in ("auto", dtype):
        return dtype
    has_float8 = capability >= FLOAT8_CAPABILITY
    if kv_dtype == KV_FLOAT8 and has_float8:
        return kv_dtype
    choices = ["auto", dtype, *([KV_FLOAT8] if has_float8 else [])]
    reason = (
        f"on a GPU of compute capability {capability / 10}, for float8 begins with {FLOAT8_CAPABILITY / 10}"
        if kv_dtype == KV_FLOAT8
        else f"on CUDA where it computes in {dtype}"
    )
    raise ModelError(f"--kv-dtype {kv_dtype} is not possible {reason}; choose {', '.join(choices)}.")
