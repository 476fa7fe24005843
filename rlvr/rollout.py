"""One vLLM engine: a problem in, a group of sampled completions out.

`RolloutEngine` is a plain class with async methods; `ray.remote(RolloutEngine)` makes the actor.
It also holds the rollout side of a weight transfer (`rlvr.weights` drives it).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from mmap import mmap
from typing import Any

import numpy as np
from pydantic import ValidationError

from rlvr import rollout_plugin
from rlvr.config import RunConfig
from rlvr.errors import ConfigError, DataError, RolloutError, WeightTransferError
from rlvr.prompts import encode_prompt, load_tokenizer
from rlvr.sampling import Sampling
from rlvr.types import Completion, Group, Problem, Rollout, VersionSpan
from rlvr.weights import parse_version, resolve_backend, version_label


class RolloutEngine:
    """A vLLM `AsyncLLM`, its tokenizer, and the version of the weights it holds.

    Concurrency: any number of `generate` calls may be in flight; vLLM batches them. During a weight
    update they are frozen, and go on with the new weights and the key-value cache they have; their
    version spans show which tokens came from which weights.
    """

    def __init__(self, config: RunConfig, model_dir: str, worker_index: int) -> None:
        self.name = f"rollout-{worker_index}"
        self.version = 0
        self._config = config
        self._model_dir = model_dir
        self._worker_index = worker_index
        self._request_ids = itertools.count()
        self._num_running = 0
        self._num_tokens = 0
        self._updating = False
        self._open = asyncio.Event()  # cleared during a weight update
        self._open.set()
        self._shared: asyncio.Queue[SharedMemory] = asyncio.Queue()
        for _ in range(2):
            self._shared.put_nowait(SharedMemory())

    async def start(self) -> None:
        """Load the model and start vLLM's processes. The weights are version 0.

        Raises:
            ConfigError: vLLM refuses the settings, or the model with them.
        """
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        os.environ[rollout_plugin.ENGINE_PARENT] = str(os.getpid())
        if current_platform.is_cpu():
            self._set_cpu_environment()

        self._tokenizer = load_tokenizer(self._model_dir, self._config.model)
        try:
            self._llm = AsyncLLM.from_engine_args(self._engine_args())
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"vLLM refuses the model or the settings under `rollout`: {_refusal(error)}"
            ) from error
        self._max_model_len: int = self._llm.model_config.max_model_len
        await self._llm.update_weight_version(version_label(0))

    def _set_cpu_environment(self) -> None:
        """What vLLM's processes read from the environment when they start."""
        threads = self._config.num_threads("rollout", len(os.sched_getaffinity(0)))
        # vLLM's own binding keeps one core back for its scheduler, which costs half of a 2-core
        # machine, and binds every engine of a host to the same cores.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(threads)
        # Keep freed memory, in one arena: glibc otherwise returns large blocks (logits, packed
        # layers) to the kernel, and faulting them in again costs more than computing them.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = str(2**32)
        os.environ["MALLOC_ARENA_MAX"] = "1"

    def _engine_args(self) -> Any:
        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        rollout = self._config.rollout
        args: dict[str, Any] = {
            "model": self._model_dir,
            "trust_remote_code": self._config.model.trust_remote_code,
            "dtype": rollout.dtype,
            "tensor_parallel_size": rollout.tensor_parallel_size,
            "max_model_len": rollout.max_model_len,
            "max_num_seqs": rollout.max_num_seqs,
            "enforce_eager": rollout.enforce_eager,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            # NumPy, which vLLM seeds too, takes 32 bits.
            "seed": (self._config.seed * 1009 + self._worker_index) % 2**32,
            "disable_log_stats": True,
            "weight_transfer_config": WeightTransferConfig(
                backend=resolve_backend(self._config, has_gpu=not current_platform.is_cpu())
            ),
        }
        if current_platform.is_cpu():
            args["kv_cache_memory_bytes"] = int(rollout.kv_cache_gb * 2**30)
            # Only whole blocks of a prompt are shared within a group, and the default of 128 is
            # longer than most prompts. 32 is the smallest that the CPU attention takes.
            args["block_size"] = 32
            # Compiling costs 70 to 90 s at the first start and gains nothing over these kernels.
            args |= {"enforce_eager": True, "ir_op_priority": rollout_plugin.CPU_OP_PRIORITY}
        else:
            args["gpu_memory_utilization"] = rollout.gpu_memory_utilization
        return AsyncEngineArgs(**(args | rollout.engine_args))

    async def generate(self, index: int, problem: Problem, num: int, sampling: Sampling) -> Group:
        """Sample `num` completions of a problem.

        Returns:
            The group, not scored. `text` is what `token_ids` decode to, without special tokens.

        Raises:
            DataError: the prompt leaves no room for `sampling.max_tokens`.
            RolloutError: the engine died.
        """
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt_token_ids = self._fitting_prompt(problem, sampling)
        greedy = sampling.temperature == 0
        params = SamplingParams(
            n=1 if greedy else num,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            # Without stop strings nothing needs the text while sampling: it is decoded once, below.
            detokenize=bool(sampling.stop),
            logprobs=0 if sampling.logprobs else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        await self._open.wait()
        prompt = TokensPrompt(
            prompt_token_ids=prompt_token_ids,
            # Part of every prefix-cache key: what is submitted after an update finds no blocks
            # from before it.
            cache_salt=version_label(self.version),
        )
        request_id = f"{self.name}-{next(self._request_ids)}"
        self._num_running += num
        try:
            # FINAL_ONLY: one output, when all completions are done.
            [output] = [item async for item in self._llm.generate(prompt, params, request_id)]
        except EngineDeadError as error:
            raise RolloutError(f"{self.name}: the vLLM engine is dead: {error}") from error
        finally:
            self._num_running -= num
        completions = [self._completion(item) for item in output.outputs]
        self._num_tokens += sum(len(completion.token_ids) for completion in completions)
        if greedy:
            completions *= num
        return Group(
            index=index,
            problem=problem,
            prompt_token_ids=tuple(prompt_token_ids),
            rollouts=tuple(Rollout(completion=completion) for completion in completions),
        )

    async def check_prompts(self, problems: Sequence[Problem], sampling: Sampling) -> None:
        """Raise DataError if a problem's prompt does not fit, rather than hours into a run."""
        for problem in problems:
            self._fitting_prompt(problem, sampling)

    def _fitting_prompt(self, problem: Problem, sampling: Sampling) -> list[int]:
        prompt_token_ids = encode_prompt(self._tokenizer, problem, self._config.model.chat_template)
        room = self._max_model_len - sampling.max_tokens
        if len(prompt_token_ids) > room:
            raise DataError(
                f"problem {problem.id!r}: its prompt has {len(prompt_token_ids)} tokens, but only "
                f"{room} fit (max_model_len {self._max_model_len} - max_tokens "
                f"{sampling.max_tokens}); raise rollout.max_model_len or drop the problem"
            )
        return prompt_token_ids

    def _completion(self, output: Any) -> Completion:
        token_ids = tuple(output.token_ids)
        return Completion(
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            token_ids=token_ids,
            logprobs=()
            if output.logprobs is None
            else tuple(
                position[token].logprob
                for position, token in zip(output.logprobs, token_ids, strict=True)
            ),
            versions=tuple(
                VersionSpan(version=parse_version(span.version), start=span.start, end=span.end)
                for span in output.weight_versions
            ),
            finish_reason=output.finish_reason,
        )

    def stats(self) -> dict[str, float]:
        """`tokens_generated` since the start, `completions_running` now, weight `version`."""
        return {
            "tokens_generated": self._num_tokens,
            "completions_running": self._num_running,
            "version": self.version,
        }

    async def check_health(self) -> None:
        """Raise RolloutError if vLLM's processes are dead."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise RolloutError(f"{self.name}: the vLLM engine is dead: {error}") from error

    async def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown()
        del self._llm  # or its destructor fails when the interpreter is half gone

    # The rollout side of a weight transfer: one method for each of vLLM's protocol.

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def start_weight_update(self, version: int) -> None:
        """Freeze generation and get ready to receive weights.

        An update that was begun but not finished (another worker failed) is taken up again.

        Raises:
            WeightTransferError: this worker already has `version` or a newer one.
        """
        if version <= self.version:
            raise WeightTransferError(
                f"it holds weights v{self.version} already, refused the stale v{version}"
            )
        self._open.clear()
        if self._updating:
            return
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        await self._llm.start_weight_update()
        self._updating = True

    async def update_weights(
        self, update_info: dict[str, Any], arrays: list[np.ndarray] | None = None
    ) -> None:
        """Receive one part of the weights. Two calls may overlap: one copies, one loads.

        Args:
            update_info: What the backend's engine in vLLM expects.
            arrays: The `ray` backend's tensors, as bytes out of Ray's object store.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        if arrays is None:
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info))
            return
        shared = await self._shared.get()
        try:
            offsets = [offset for _, offset, *_ in update_info["tensors"]]
            path = await asyncio.to_thread(shared.write, arrays, offsets, update_info["nbytes"])
            request = WeightTransferUpdateRequest(update_info | {"path": path})
            await self._llm.update_weights(request)
        except BaseException:
            self._updating = False  # vLLM gives an update up at the first error
            raise
        finally:
            self._shared.put_nowait(shared)

    async def finish_weight_update(self, version: int) -> int:
        """Switch to the new weights and go on generating.

        Returns:
            The version that vLLM confirms.
        """
        await self._llm.finish_weight_update(version_label(version))
        self.version = parse_version(await self._llm.get_weight_version())
        self._updating = False
        await self._llm.resume_generation()
        self._open.set()
        return self.version


def _refusal(error: ValueError | TypeError) -> str:
    """What is wrong, without pydantic's frame around it."""
    if isinstance(error, ValidationError):
        return "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
    return str(error)


class SharedMemory:
    """Anonymous memory that vLLM's worker process maps by path. Kept between updates: on virtual
    machines, touching new memory costs many times what copying into old memory does. The kernel
    frees it with the processes, however they die."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("rlvr-weights")
        self._array = np.empty(0, dtype=np.uint8)

    def write(self, arrays: list[np.ndarray], offsets: list[int], nbytes: int) -> str:
        """Copy arrays of bytes to their offsets in a space of `nbytes`; the path to open."""
        if self._array.nbytes < nbytes:
            os.ftruncate(self._fd, nbytes)
            self._array = np.frombuffer(mmap(self._fd, nbytes), dtype=np.uint8)
        for array, offset in zip(arrays, offsets, strict=True):
            self._array[offset : offset + array.nbytes] = array
        return f"/proc/{os.getpid()}/fd/{self._fd}"
