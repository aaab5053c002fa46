import json

from tools.experiments.definition import read_experiment
from tools.experiments.page import cluster_tables, summary_table

EXPERIMENT = read_experiment()
TOKENS = EXPERIMENT.batch * EXPERIMENT.new_tokens


def plan(method, strategy, predicted_s, *, baseline=None):
    return {
        "method": method,
        "baseline": baseline,
        "strategy": strategy,
        "omega": 0.5,
        "predicted_s": predicted_s,
        "gap": None,
    }


def tables(tmp_path, plans, runs):
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    kl = {each["strategy"]: 0.25 for each in plans}
    (tmp_path / "kl.json").write_text(json.dumps(kl))
    return cluster_tables(EXPERIMENT, tmp_path)


def test_a_row_has_predictions_medians_and_both_ratios(tmp_path):
    plans = [
        plan("uniform", "a.toml", 4.0),
        plan("joint plan", "b.toml", 2.0, baseline="uniform"),
    ]
    runs = {
        "a.toml": {"latency_s": [TOKENS / 10, TOKENS / 20, TOKENS / 16]},
        "b.toml": {"latency_s": [TOKENS / 32]},
    }
    row = tables(tmp_path, plans, runs)[-1]
    assert f"| uniform | 0.5 | 0.25 | {TOKENS / 4:.1f} | 16.0 (10.0–20.0) |" in row
    assert row.endswith("| 32.0 (32.0–32.0) | 2.00× | 2.00× |")


def test_what_finds_no_plan_and_what_was_not_run_are_shown(tmp_path):
    plans = [
        plan("uniform", None, None) | {"omega": None},
        plan("adabits", "a.toml", 4.0),
        plan("joint plan", "b.toml", 2.0, baseline="adabits"),
    ]
    lines = tables(tmp_path, plans, {})
    assert "not run yet" in lines[2]
    assert lines[2].endswith("| 2.00× | – |")
    assert lines[3].startswith("| uniform | nothing fits |")


def test_ablations_are_compared_with_the_full_planner(tmp_path):
    plans = [
        plan("full planner", "a.toml", 2.0),
        plan("m_p = m_d", "b.toml", 3.0),
        plan("one bit width", None, None),
    ]
    runs = {"a.toml": {"latency_s": [2.0]}, "b.toml": {"latency_s": [5.0]}}
    lines = tables(tmp_path, plans, runs)
    assert lines[-2].endswith("| 1.00× |")
    assert lines[-1].startswith("| m_p = m_d |")
    assert lines[-1].endswith("| 2.50× |")


def test_means_are_over_clusters_where_a_baseline_has_a_plan(tmp_path):
    plans = [
        plan("uniform", "a.toml", 4.0),
        plan("joint plan", "b.toml", 2.0, baseline="uniform"),
    ]
    none = [plan("uniform", None, None)]
    for name, made, slow_s in (("x", plans, 3.0), ("y", plans, 6.0), ("z", none, 0)):
        folder = tmp_path / name
        folder.mkdir()
        runs = {"a.toml": {"latency_s": [slow_s]}, "b.toml": {"latency_s": [2.0]}}
        (folder / "plans.json").write_text(json.dumps(made))
        (folder / "runs.json").write_text(json.dumps(runs))
    lines = summary_table([tmp_path / name for name in "xyz"])
    assert lines[0] == "| baseline | x | y | z | mean |"
    assert lines[2:] == ["| uniform | 1.50× | 3.00× | – | 2.25× |"]
