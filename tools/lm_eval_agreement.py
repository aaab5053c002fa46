"""lm-eval over HTTP and `evaluate` on the same multiple-choice questions, item by item.

    python -m tools.lm_eval_agreement --lm-eval .venv-lm-eval/bin/lm_eval

Questions are pieces of code with four continuations, of which one is the real one. None begins
within a token: where a question's last token merges with a choice, `evaluate` counts the merged
one, and lm-eval leaves it out. lm-eval is a program of another environment (`pip install 'lm-eval[api]' transformers`): it asks a server with
`local-completions`, on a task of its own made from the same JSON lines. Ends with status 1 unless
every item has the same choice and both accuracies are equal.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.questions import choose, fraction_right, read_questions
from tools.benchmarks.models import even_strategy
from tools.provenance import provenance
from tools.serve_process import NAME, serve_process

_MODEL = Path("examples/tiny-code-lm")
_TEXT = _MODEL / "evaluation.txt"
_TASK = """\
task: own_questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def write_questions(path: Path, count: int, tokenizer: Tokenizer) -> None:
    """Writes questions whose right answer goes on where the question ends."""
    chooser = random.Random(0)
    text = _TEXT.read_text("utf-8")
    lines: list[str] = []
    while len(lines) < count:
        places = [chooser.randrange(len(text) - 200) for _ in range(4)]
        answer = chooser.randrange(4)
        start = places[answer]
        choices = [text[place + 80 : place + 110] for place in places]
        question = text[start : start + 80]
        before = tokenizer.encode(question)
        whole = [tokenizer.encode(question + choice) for choice in choices]
        if question != question.rstrip() or any(
            each[: len(before)] != before for each in whole
        ):
            continue
        values = {
            "question": question,
            "choices": choices,
            "answer": answer,
        }
        lines.append(json.dumps(values))
    path.write_text("\n".join(lines) + "\n", "utf-8")


def by_lm_eval(program: str, strategy: Strategy, questions: Path) -> list[int]:
    """Returns the choice of each question, by lm-eval from a server."""
    with TemporaryDirectory() as temporary, serve_process(strategy) as server:
        folder = Path(temporary)
        (folder / "own.yaml").write_text(_TASK.format(path=questions), "utf-8")
        arguments = ",".join(
            (
                f"model={NAME}",
                f"base_url={server.url}/completions",
                f"tokenizer={strategy.model.path}",
                "num_concurrent=4",
            )
        )
        subprocess.run(
            [
                *(program, "run", "--model", "local-completions"),
                *("--model_args", arguments, "--tasks", "own_questions"),
                *("--include_path", folder, "--log_samples"),
                *("--output_path", folder / "out"),
            ],
            check=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        )
        (path,) = (folder / "out").rglob("samples_*.jsonl")
        samples: list[dict[str, Any]] = [
            json.loads(line) for line in path.read_text("utf-8").splitlines()
        ]
    samples.sort(key=lambda sample: sample["doc_id"])
    return [
        int(np.argmax([float(each[0]) for each in sample["filtered_resps"]]))
        for sample in samples
    ]


@click.command()
@click.option("--lm-eval", "program", default="lm_eval")
@click.option("--questions", "count", type=int, default=120)
def main(program: str, count: int) -> None:
    """Ask the same questions both ways."""
    strategy = even_strategy(
        _MODEL.resolve(),
        bits=8,
        head_bits=16,
        num_stages=1,
        batch=4,
        prefill=1,
        decode=4,
        prompt_length=120,
        new_tokens=8,
    )
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "questions.jsonl"
        write_questions(path, count, Tokenizer.load(_MODEL))
        questions = read_questions(path)
        over_http = by_lm_eval(program, strategy, path)
    with Pipeline.load(strategy) as pipeline:
        expected, _ = choose(questions, pipeline.tokenizer, pipeline.score, longest=128)
    different = sum(
        one != other for one, other in zip(over_http, expected, strict=True)
    )
    click.echo(
        json.dumps(
            {
                "questions": count,
                "accuracy_lm_eval": fraction_right(questions, over_http),
                "accuracy_evaluate": fraction_right(questions, expected),
                "different": different,
                **provenance("tools.lm_eval_agreement"),
            }
        )
    )
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
