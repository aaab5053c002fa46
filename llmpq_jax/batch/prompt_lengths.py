"""The workload that a file of prompts is: how long they are, how long they may become."""

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
        prompts: Their file.
        batch: Prompts served at a time; by default all.
        new_tokens: Of prompts that do not say how many they want; `generate` will give
            them as many as the longest of all.
        output_length_fraction: See `Workload`.

    Raises:
        RequestError: The file is none of prompts, or one says no number of new tokens
            and `new_tokens` is absent.
        CheckpointError: There is no tokenizer.
    """
    tokenizer = Tokenizer.load(model)
    lengths: list[tuple[int, int | None]] = []
    for prompt in refuse_bad_lines(PromptFile(prompts, PromptDefaults())):
        if prompt.max_new_tokens is None and new_tokens is None:
            msg = f"{prompt.where}: says no max_new_tokens: expected it there, or --new-tokens for those that do not say"
            raise RequestError(msg)
        try:
            num_tokens = len(prompt_tokens(prompt, tokenizer))
        except RequestError as reason:
            msg = f"{prompt.where}: {reason}"
            raise RequestError(msg) from reason
        if num_tokens == 0:
            msg = f"{prompt.where}: is no token to the tokenizer of {model}: expected one at least; see that the folder holds the model's tokenizer.json"
            raise RequestError(msg)
        lengths += [(num_tokens, prompt.max_new_tokens)] * prompt.num_choices
    most = max([own or 0 for _, own in lengths] + [new_tokens or 0])
    return workload_of_lengths(
        [(num_tokens, own or most) for num_tokens, own in lengths],
        batch=batch,
        output_length_fraction=output_length_fraction,
    )
