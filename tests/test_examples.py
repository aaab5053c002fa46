"""Every example runs as its reader would run it: from the repository's root."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmpq_jax.batch.prompt import PromptDefaults
from llmpq_jax.batch.prompt_file import read_prompts
from llmpq_jax.runtime import Request
from llmpq_jax.tasks.example import MODEL, WORKLOAD

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PROMPTS = ROOT / "examples" / "prompts.jsonl"

# What a line of the output holds.
EXPECTED = {
    "edit_a_strategy": "── edited: ",
    "generate_from_python": " tokens/s",
    "plan_from_python": "node0/cpu:3: layers (",
    "score_from_python": " bits a byte",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path):
    done = subprocess.run(
        [sys.executable, path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[path.stem] in done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_does(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert text.startswith('"""')


def test_the_prompts_fill_a_batch_and_fit_it():
    from llmpq_jax.checkpoint.tokenizer import Tokenizer

    prompts = read_prompts(PROMPTS, PromptDefaults())
    assert len(prompts) == WORKLOAD.batch
    tokenizer = Tokenizer.load(ROOT / MODEL)
    for prompt in prompts:
        request = Request(token_ids=tokenizer.encode(prompt.text), max_new_tokens=1)
        assert len(request.token_ids) <= WORKLOAD.prompt_length
