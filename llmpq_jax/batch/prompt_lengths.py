"""The workload of a file of prompts: lengths of prompts and their new tokens."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.batch.prompt import PromptDefaults, prompt_tokens
from llmpq_jax.batch.prompt_file import PromptFile, refuse_bad_lines
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.schema.workload import Workload, workload_of_lengths


def workload_of_prompts(
    model: Path,
    prompts: Path,
    *,
    batch: int | None = None,
    new_tokens: int | None = None,
    output_length_fraction: float | None = None,
) -> Workload:
    """Reads prompts as `generate` does, and tokenises them.

    Conversations go through the checkpoint's chat template.

    Args:
        model: Folder with the tokenizer.
        prompts: Path of the file of prompts.
        batch: Number of prompts served at a time; by default all.
        new_tokens: Maximum number of new tokens of prompts that give none; as in
            `generate`, such prompts get the largest maximum of the file.
        output_length_fraction: Fraction of new tokens that is expected; see `Workload`.

    Raises:
        RequestError: If the file has a bad line, or a prompt gives no maximum of new
            tokens and `new_tokens` is absent.
        CheckpointError: If there is no tokenizer.
    """
    tokenizer = Tokenizer.load(model)
    lengths: list[tuple[int, int | None]] = []
    for prompt in refuse_bad_lines(PromptFile(prompts, PromptDefaults())):
        if prompt.max_new_tokens is None and new_tokens is None:
            msg = f"{prompt.where}: says no max_new_tokens: expected it there, or --new-tokens for such prompts"
            raise RequestError(msg)
        try:
            num_tokens = len(prompt_tokens(prompt, tokenizer))
        except RequestError as reason:
            msg = f"{prompt.where}: {reason}"
            raise RequestError(msg) from reason
        if num_tokens == 0:
            msg = f"{prompt.where}: has no token by the tokenizer of {model}: expected at least one; check that the folder holds the model's tokenizer.json"
            raise RequestError(msg)
        lengths += [(num_tokens, prompt.max_new_tokens)] * prompt.num_choices
    maximum = max([own or 0 for _, own in lengths] + [new_tokens or 0])
    return workload_of_lengths(
        [(num_tokens, own or maximum) for num_tokens, own in lengths],
        batch=batch,
        output_length_fraction=output_length_fraction,
    )
