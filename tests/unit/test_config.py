"""Recipes, overrides, and what a person is told when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.config import RunConfig, Section
from rlvr.errors import ConfigError
from rlvr.load_config import load_config, resolve, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load_config(name).num_steps > 0


def test_overrides_win_and_are_typed() -> None:
    config = load_config(
        "gsm8k",
        [
            "learner.lr=3e-6",
            "seed=7",
            'rollout.stop=["###", "END"]',
            "data.system_prompt=Think first.",
            "data.limit=null",
            "model.lora={rank=4}",
            "eval.data.path=x.jsonl",
        ],
    )
    assert config.learner.lr == 3e-6
    assert config.seed == 7
    assert config.rollout.stop == ("###", "END")
    assert config.data.system_prompt == "Think first."
    assert config.data.limit is None
    assert config.model.lora is not None and config.model.lora.rank == 4
    assert config.eval.data is not None and config.eval.data.path == "x.jsonl"


def test_held_out_data_is_read_like_the_training_data_unless_it_says_otherwise() -> None:
    words = ["data.skip=5", "eval.data.path=test.jsonl"]
    data = load_config("gsm8k", words).eval.data
    assert data is not None
    assert (data.path, data.prompt_field, data.verifier) == ("test.jsonl", "question", "number")
    assert data.answer_regex and data.prompt_template
    assert (data.skip, data.name) == (0, None)
    own = ["eval.data.prompt_field=text", "eval.data.prompt_template=null"]
    data = load_config("gsm8k", [*words, *own]).eval.data
    assert data is not None
    assert (data.prompt_field, data.prompt_template) == ("text", None)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("learner.lrr=1", r"unknown key `learner\.lrr`; did you mean `learner\.lr`\?"),
        ("learner.lr=true", r"`learner\.lr` = True: input should be a number"),
        ("num_steps=true", r"`num_steps` = True: input should be a number"),
        ("lr=1", r"unknown key `lr`; did you mean `learner\.lr`\?"),
        ("model.lora.rnk=3", r"did you mean `model\.lora\.rank`\?"),
        ("frobnicate=1", r"unknown key `frobnicate`; valid keys here: num_steps"),
        ("learner.lr=fast", r"`learner\.lr` = 'fast': input should be a valid number"),
        ("learner.lr=nan", r"`learner\.lr` = nan"),
        ("rollout.group_size=1", r"`rollout\.group_size` = 1.*greater than or equal to 2"),
        ("algorithm.loss=ppo", r"`algorithm\.loss` = 'ppo'.*'clip'"),
        ("rollout.top_p=0.9", r"rollout\.top_p = 0\.9.*biases the importance ratio"),
        ("rollout.top_k=50", r"rollout\.top_k = 50.*biases the importance ratio"),
        ("learner.num_minibatches=3", r"groups_per_step = 16 cannot be split into"),
        ("rollout.max_model_len=100", r"leaves no room for a prompt"),
        ("algorithm.importance=tis", r'needs algorithm\.old_logprobs = "learner"'),
        ("algorithm.loss=[1]", r"`algorithm\.loss` = \[1\]"),
        ("data.skip=99999999999999999999", r"`data\.skip` = 9+: input should be less than"),
        ("learner.betas=[0.9, 1.0]", r"`learner\.betas\.1` = 1\.0: input should be less than 1"),
        ("algorithm.max_refill_factor=inf", r"`algorithm\.max_refill_factor` = inf"),
        ("rollout.temperature=0.001", r"`rollout\.temperature` = 0\.001: .* equal to 0\.01"),
        ("learner", r"not of the form key=value"),
        ("num_steps.x=1", r"'num_steps' is a value, not a section"),
    ],
)
def test_mistakes_are_explained(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("gsm8k", [override])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.group_size.*learner\.lrr"):
        load_config("gsm8k", ["learner.lrr=1", "rollout.group_size=0"])


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gsm8k'"):
        load_config("gsm8")


def test_broken_toml_names_the_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("seed = 1\nseed = = 2\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML.*line 2"):
        load_config(str(path))


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "mine.py").write_text("")
    config = load_config("gsm8k", ["data.path=train.jsonl", "data.verifier=mine.py:judge"])
    assert config.data.path == str(tmp_path / "train.jsonl")
    assert config.data.verifier == f"{tmp_path / 'mine.py'}:judge"


def test_resolved_config_reads_back_the_same() -> None:
    config = load_config("quickstart", ["model.lora={}"])
    again = resolve(config.model_dump(mode="json"), [], origin="config.json")
    assert again == config


def test_config_is_frozen_and_every_key_is_described() -> None:
    config = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    sections = [RunConfig, *Section.__subclasses__()]
    undescribed = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        # A section within a section is described by its own docstring.
        if not field.description and not isinstance(field.default, Section)
    ]
    assert undescribed == []
