"""Continues two prompts with a plan, one of them as likely as can be, one by chance."""

from llmpq_jax.runtime import Pipeline, Sampling

PROMPTS = ["def read_lines(path):", "class Stack:\n    def __init__(self"]

with Pipeline.load("strategies/tiny-four-cpu/strategy.toml") as pipeline:
    completions = pipeline.generate(
        PROMPTS,
        max_new_tokens=32,
        sampling=[Sampling(), Sampling(temperature=0.8, top_p=0.95, seed=7)],
    )
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        print(prompt + completion.text)
        print(f"── {completion.finish_reason}, {len(completion.token_ids)} tokens\n")
    batch = pipeline.batches[-1]
    print(f"{batch.num_new_tokens / batch.latency_s:.0f} tokens/s")
