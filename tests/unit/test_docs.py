import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from rlvr.load_config import all_keys
from rlvr.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gen_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "scripts" / "gen_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_is_current(gen_docs: ModuleType):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == gen_docs.configuration(), "run `python scripts/gen_docs.py`"


def test_the_metric_table_is_current(gen_docs: ModuleType):
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == gen_docs.metrics_page(page), "run `python scripts/gen_docs.py`"


def test_every_key_is_in_the_reference_with_its_meaning(gen_docs: ModuleType):
    section, described = "", set()
    for line in gen_docs.configuration().splitlines():
        if heading := re.match(r"## (?:`\[(.*)\]`|Top level)", line):
            section = f"{heading[1]}." if heading[1] else ""
        elif row := re.match(r"\| `(\w+)` \|.*\| (.+) \|$", line):
            assert row[2].strip()
            described.add(section + row[1])
    keys = {key for key in all_keys() if not key.startswith("eval.data.")}
    assert keys <= described


def test_what_the_metrics_page_names_in_prose_exists():
    prose = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").split("## All metrics")[0]
    keys = set(all_keys())
    names = re.findall(r"`([a-z_]+/[a-z_0-9]+)`", prose)
    assert names and set(names) <= set(METRICS)
    settings = re.findall(r"`((?:rollout|learner|algorithm|metrics)\.[a-z_]+)", prose)
    assert {name for name in settings if name != "metrics.jsonl"} <= keys
