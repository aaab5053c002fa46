"""The workload that a file of prompts is: how long they are, how long they may become."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.spec.workload import Workload, workload_of_lengths
from llmpq_jax.workflow.prompt_file import Choices, read_prompts


def workload_of_prompts(
    model: Path,
    prompts: Path,
    *,
    batch: int | None = None,
    new_tokens: int | None = None,
    output_length_fraction: float | None = None,
) -> Workload:
    """Reads prompts as `generate` does, and tokenises them.

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
    read = read_prompts(prompts, Choices())
    silent = next((prompt for prompt in read if prompt.max_new_tokens is None), None)
    if silent is not None and new_tokens is None:
        msg = f"{silent.where}: says no max_new_tokens: expected it there, or --new-tokens for those that do not say"
        raise RequestError(msg)
    most = max([prompt.max_new_tokens or 0 for prompt in read] + [new_tokens or 0])
    tokenizer = Tokenizer.load(model)
    lengths = [
        (len(tokenizer.encode(prompt.text)), prompt.max_new_tokens or most)
        for prompt in read
    ]
    for prompt, (tokens, _) in zip(read, lengths, strict=True):
        if tokens == 0:
            msg = f"{prompt.where}: is no token to the tokenizer of {model}: expected one at least; see that the folder holds the model's tokenizer.json"
            raise RequestError(msg)
    return workload_of_lengths(
        lengths,
        batch=batch,
        output_length_fraction=output_length_fraction,
    )
