from __future__ import annotations

import json

from llmpq_jax.files import json_text


def test_numbers_that_json_lacks_become_null() -> None:
    finite = {"a": [1.5, None, "NaN"], "b": (True, 2)}
    assert json.loads(json_text(finite)) == {"a": [1.5, None, "NaN"], "b": [True, 2]}
    others = {"a": [float("nan"), 1.5], "b": (float("inf"), {"c": -float("inf")})}
    assert json_text(others) == '{"a": [null, 1.5], "b": [null, {"c": null}]}'
