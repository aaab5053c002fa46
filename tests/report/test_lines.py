from __future__ import annotations

from dataclasses import replace

from llmpq_jax.report.lines import plan_lines, run_lines
from llmpq_jax.schema.workload import workload_of_lengths
from tests.report import samples


def test_a_plan_has_lines_of_time_quality_and_proof():
    time, quality, certificate = plan_lines(samples.strategy(), int8_omega=0.125)
    assert "prefill 20 ms + decode 80 ms = 100 ms, 1,280 tokens/s" in time
    assert "Σω = 0.1, 80.0% of uniform int8's 0.125" in quality
    many = plan_lines(samples.strategy(), int8_omega=0.004)[1]
    assert "Σω = 0.1, 25 times uniform int8's 0.004" in many
    assert "limited to 0.12 (by weight-variance); a note" in quality
    assert "proven optimal over all cuts (HiGHS 1, 2 s)" in certificate


def test_an_open_gap_is_shown():
    plan = samples.strategy()
    assert plan.certificate is not None
    plan = replace(plan, certificate=replace(plan.certificate, gap=0.034))
    assert "proven within 3.40% of the best" in plan_lines(plan)[-1]


def test_a_plan_by_hand_has_no_lines():
    plan = replace(samples.strategy(), quality=None, predicted=None, certificate=None)
    assert plan_lines(plan) == []
    assert len(run_lines(plan, [samples.batch()])) == 1


def test_a_run_of_two_batches_adds_them_up():
    batch = samples.batch()
    measured, predicted = run_lines(samples.strategy(), [batch, batch])
    assert f"{2 * batch.num_new_tokens} new tokens of 16 prompts in" in measured
    rate = batch.num_new_tokens / batch.latency_s
    assert measured.endswith(f"{rate:,.0f} tokens/s")
    assert "128 new tokens of 8 prompts in 100 ms" in predicted
    assert predicted.endswith("for the workload that was planned")


def test_a_batch_that_was_not_full_is_not_compared_without_a_word():
    few = replace(samples.batch(), num_requests=2, num_new_tokens=32)
    measured, predicted = run_lines(samples.strategy(), [few])
    assert "32 new tokens of 2 prompts in" in measured
    assert predicted.endswith("with a full batch: 2 prompts left 6 of its 8 rows empty")


def test_the_prefill_of_a_long_run_is_that_of_its_first_prompts():
    many = replace(samples.batch(), num_requests=5000, prefill_s=0.332, decode_s=99.0)
    measured, predicted = run_lines(samples.strategy(), [many])
    assert (
        "(prefill of the first 8 prompts 332 ms, decode and other prompts 99 s)"
        in measured
    )
    assert "(prefill 20 ms, decode 80 ms)" in predicted


def test_prompts_of_many_lengths_are_shown_as_they_are_planned():
    workload = workload_of_lengths(
        [(100, 40), (10, 20), (20, 10)], batch=2, output_length_fraction=0.5
    )
    plan = replace(samples.strategy(), workload=workload)
    assert plan_lines(plan)[0] == (
        "workload     3 prompts, 2 at a time: memory for prompts of 100 and contexts of "
        "140 tokens, time for 11.67 new tokens a prompt on average (0.5 of the maximum)"
    )
    assert (
        "35 new tokens of 3 prompts in 100 ms" in run_lines(plan, [samples.batch()])[1]
    )
