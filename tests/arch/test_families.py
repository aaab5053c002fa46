"""config.json is read as transformers reads it, or refused; nothing in it is ignored."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from llmpq_jax.arch.architecture import Architecture, Rope
from llmpq_jax.arch.families import FAMILIES, read_architecture
from llmpq_jax.errors import SpecError, UnsupportedModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
ALL = sorted(FAMILIES)
ROTARY = ["llama", "mistral", "qwen2", "qwen3"]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(config: object) -> Architecture:
    """Reads a config through a file."""
    with tempfile.TemporaryDirectory() as folder:
        text = config if isinstance(config, str) else json.dumps(config)
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        return read_architecture(Path(folder))


# --- agreement with transformers ---------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_defaults_are_those_of_transformers(family: str) -> None:
    config_class: Any = CONFIG_MAPPING[family]
    theirs = {field.name: field.default for field in fields(config_class)}
    theirs |= {"rope_theta": config_class.default_theta, "rope_scaling": None}
    # An attribute of any config, which qwen2 reads if it is there.
    theirs.setdefault("head_dim", None)
    ours = dict(FAMILIES[family].defaults)
    ours.pop("seq_length", None)  # BLOOM's context, which transformers does not bound
    assert ours == {key: theirs[key] for key in ours}


@pytest.mark.parametrize("family", ALL)
def test_every_key_that_transformers_writes_is_in_a_table(family: str) -> None:
    config_class: Any = CONFIG_MAPPING[family]
    table = FAMILIES[family]
    known = {*table.known_keys, *table.all_fixed_values}
    assert {field.name for field in fields(config_class)} <= known
    assert read(config_class().to_dict()) == read({"model_type": family})


@st.composite
def gated_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Configs of the rotary families, keys left out at random."""
    num_kv_heads = draw(st.sampled_from([1, 2, 4]))
    num_heads = num_kv_heads * draw(st.sampled_from([1, 2, 4]))
    num_layers = draw(st.integers(1, 5))
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    uses_window = draw(st.booleans())
    family = draw(st.sampled_from(ROTARY))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "head_dim": st.sampled_from([8, 24, 64]),
        "max_position_embeddings": st.integers(64, 4096),
        "rms_norm_eps": st.sampled_from([1e-5, 1e-6]),
        "tie_word_embeddings": st.booleans(),
        "hidden_act": st.sampled_from(["silu", "gelu", "relu"]),
        "rope_theta": st.sampled_from([10000, 5e5]),
        "rope_scaling": st.sampled_from(
            [None, {"type": "linear", "factor": 2.0}, LLAMA3]
        ),
        "torch_dtype": st.just("bfloat16"),
    }
    if family in {"llama", "qwen3"}:
        optional["attention_bias"] = st.booleans()
    if family == "llama":
        optional["mlp_bias"] = st.booleans()
    if family == "mistral":
        optional["sliding_window"] = st.sampled_from([None, 128])
    if family in {"qwen2", "qwen3"}:
        optional["sliding_window"] = st.integers(1, 64)
        optional["max_window_layers"] = st.integers(0, 6)
        optional["use_sliding_window"] = st.just(uses_window)
    if family in {"qwen2", "qwen3"} and uses_window:
        optional["layer_types"] = st.lists(
            kinds, min_size=num_layers, max_size=num_layers
        )
    config = draw(st.fixed_dictionaries({}, optional=optional))
    if "layer_types" in config:
        config["use_sliding_window"] = True
    return config | {
        "model_type": family,
        "hidden_size": num_heads * draw(st.sampled_from([16, 32])),
        "intermediate_size": draw(st.integers(1, 512)),
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "vocab_size": draw(st.integers(1, 1000)),
    }


@given(gated_configs())
def test_rotary_families_are_read_as_transformers_reads_them(
    config: dict[str, Any],
) -> None:
    ours = read(config)
    theirs: Any = _transformers_config(config)
    types = getattr(theirs, "layer_types", None) or ["full_attention"] * ours.num_layers
    if config["model_type"] == "mistral" and theirs.sliding_window is not None:
        types = ["sliding_attention"] * ours.num_layers
    rope = theirs.rope_parameters
    has_bias = getattr(theirs, "attention_bias", False)
    head_dim = getattr(theirs, "head_dim", theirs.hidden_size // ours.num_heads)
    llama3 = rope["rope_type"] == "llama3"
    assert ours == Architecture(
        family=config["model_type"],
        num_layers=theirs.num_hidden_layers,
        hidden_size=theirs.hidden_size,
        intermediate_size=theirs.intermediate_size,
        num_heads=theirs.num_attention_heads,
        num_kv_heads=theirs.num_key_value_heads,
        head_dim=head_dim,
        vocabulary_size=theirs.vocab_size,
        max_positions=theirs.max_position_embeddings,
        activation=theirs.hidden_act,
        is_gated=True,
        norm="rms",
        norm_eps=theirs.rms_norm_eps,
        position="rope",
        rope=Rope(
            theta=rope["rope_theta"],
            scaling="none" if rope["rope_type"] == "default" else rope["rope_type"],
            factor=rope.get("factor", 1.0),
            low_frequency_factor=rope["low_freq_factor"] if llama3 else 1.0,
            high_frequency_factor=rope["high_freq_factor"] if llama3 else 4.0,
            original_positions=(
                rope["original_max_position_embeddings"] if llama3 else 8192
            ),
        ),
        layer_windows=tuple(
            theirs.sliding_window if kind == "sliding_attention" else None
            for kind in types
        ),
        has_qkv_bias=has_bias or config["model_type"] == "qwen2",
        has_output_bias=has_bias,
        has_mlp_bias=getattr(theirs, "mlp_bias", False),
        has_qk_norm=config["model_type"] == "qwen3",
        embedding_size=theirs.hidden_size,
        ties_head=theirs.tie_word_embeddings,
    )


def test_opt_350m_norms_after_and_projects_its_embeddings() -> None:
    architecture = read_architecture(GOLDEN / "opt-350m")
    assert architecture.norm_position == "after"
    assert not architecture.has_final_norm
    assert (architecture.embedding_size, architecture.hidden_size) == (16, 32)
    assert architecture.position_offset == 2


@pytest.mark.parametrize("key", ["do_layer_norm_before", "_remove_final_layer_norm"])
def test_either_key_of_opt_removes_the_final_norm(key: str) -> None:
    assert read({"model_type": "opt"}).has_final_norm
    value = key == "_remove_final_layer_norm"
    assert not read({"model_type": "opt", key: value}).has_final_norm


def test_opt_without_biases_has_none() -> None:
    architecture = read({"model_type": "opt", "enable_bias": False})
    assert not architecture.has_qkv_bias
    assert not architecture.has_output_bias
    assert not architecture.has_mlp_bias


def test_bloom_is_the_same_in_both_spellings() -> None:
    old = {"n_embed": 48, "n_layer": 3, "n_head": 6}
    new = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
    architecture = read({"model_type": "bloom"} | old)
    assert architecture == read({"model_type": "bloom"} | new)
    assert (architecture.num_layers, architecture.num_heads) == (3, 6)
    assert architecture.intermediate_size == 4 * 48
    assert architecture.has_embedding_norm
    assert architecture.activation == "gelu_tanh"


@pytest.mark.parametrize("family", ROTARY)
def test_rotary_spellings_old_and_new_agree(family: str) -> None:
    old = {"rope_theta": 5e5, "rope_scaling": LLAMA3}
    older = {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"type": "llama3"}}
    new = {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}
    expected = Rope(theta=5e5, scaling="llama3", factor=8.0)
    for spelling in (old, older, new, old | new):
        config = {"model_type": family, "max_position_embeddings": 131072} | spelling
        if spelling == old | new:
            config["rope_scaling"] = new["rope_parameters"]
        assert read(config).rope == expected


def test_a_path_may_be_the_file_or_its_folder() -> None:
    folder = GOLDEN / "llama"
    assert read_architecture(folder / "config.json") == read_architecture(folder)


# --- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "mixtral"},
            r"model_type is 'mixtral': implemented are llama, mistral, qwen2, qwen3, opt",
        ),
        (
            {"model_type": "llama", "hidden_act": "quick_gelu"},
            r"config\.json: hidden_act is 'quick_gelu': implemented is 'silu', ",
        ),
        (
            {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4.0}},
            r"rope_scaling\.rope_type is 'yarn': implemented is 'default', 'linear'",
        ),
        (
            {"model_type": "qwen2", "rope_parameters": {"rope_type": "longrope"}},
            r"rope_parameters\.rope_type is 'longrope'",
        ),
        (
            {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            r"rope_type is 'dynamic'",
        ),
        (
            {"model_type": "llama", "rope_parameters": LLAMA3 | {"beta_fast": 32}},
            r"rope_parameters\.beta_fast is 32: implemented for 'llama3' rotary",
        ),
        (
            {"model_type": "llama", "rope_parameters": {"full_attention": {"a": 1}}},
            r"rope_parameters\.full_attention is \{'a': 1\}",
        ),
        (
            {"model_type": "llama", "partial_rotary_factor": 0.5},
            r"partial_rotary_factor is 0\.5: implemented is 1\.0 or null",
        ),
        (
            {"model_type": "qwen3", "rope_parameters": {"partial_rotary_factor": 0.5}},
            r"rope_parameters\.partial_rotary_factor is 0\.5: implemented is 1\.0",
        ),
        (
            {"model_type": "bloom", "apply_residual_connection_post_layernorm": True},
            r"post_layernorm is True: implemented is False or null",
        ),
        (
            {"model_type": "opt", "layer_norm_elementwise_affine": False},
            r"layer_norm_elementwise_affine is False: implemented is True or null",
        ),
        (
            {"model_type": "opt", "is_encoder_decoder": True},
            r"is_encoder_decoder is True: implemented is False or null",
        ),
        (
            {
                "model_type": "qwen2",
                "num_hidden_layers": 1,
                "layer_types": ["linear_attention"],
            },
            r"layer_types\.0 is 'linear_attention': implemented is 'full_attention'",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read(config)


@given(
    st.sampled_from(ALL),
    st.from_regex(r"new_[a-z]{1,8}", fullmatch=True),
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(min_size=1),
        st.just(True),
    ),
)
def test_an_unknown_key_is_never_ignored(family: str, key: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"config\.json: {key} is "):
        read({"model_type": family, key: value})


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_key_without_a_value_is_ignored(value: object) -> None:
    config = {"model_type": "llama"}
    assert read(config | {"new_key": value}) == read(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json: is not JSON: "),
        ("[" * 100_000, r"config\.json: is not JSON: "),
        ("[]", r"found a list, expected a JSON object"),
        ("{}", r"model_type: found None, expected one of llama, "),
        (
            '{"model_type": "llama", "rms_norm_eps": NaN}',
            r"holds NaN, which is not JSON",
        ),
        (
            {"model_type": "llama", "hidden_size": "4096"},
            r"hidden_size: found '4096', expected a whole number from 1 up",
        ),
        (
            {"model_type": "llama", "hidden_size": None},
            r"hidden_size: found None, expected a whole number from 1 up",
        ),
        (
            {"model_type": "llama", "num_hidden_layers": True},
            r"num_hidden_layers: found True, expected a whole number",
        ),
        (
            {"model_type": "llama", "num_attention_heads": 0},
            r"num_attention_heads: found 0, expected a whole number from 1 up",
        ),
        (
            {"model_type": "llama", "rms_norm_eps": "small"},
            r"rms_norm_eps: found 'small', expected a positive number",
        ),
        (
            '{"model_type": "llama", "rms_norm_eps": 1e999}',
            r"rms_norm_eps: found inf, expected a positive number",
        ),
        (
            {"model_type": "llama", "attention_bias": 1},
            r"attention_bias: found 1, expected true or false",
        ),
        (
            {"model_type": "llama", "hidden_act": 3},
            r"hidden_act: found 3, expected a word in quotes",
        ),
        (
            {"model_type": "llama", "hidden_size": 100},
            r"hidden size 100 is no multiple of 32 heads: expected one, or a head_dim",
        ),
        (
            {"model_type": "llama", "num_key_value_heads": 5},
            r"32 query heads do not share 5 key-value heads evenly",
        ),
        (
            {"model_type": "qwen2", "layer_types": ["full_attention"]},
            r"layer_types: found \['full_attention'\], expected a list of 32",
        ),
        (
            {
                "model_type": "qwen2",
                "num_hidden_layers": 1,
                "layer_types": ["sliding_attention"],
            },
            r"layer_types has 'sliding_attention', but use_sliding_window or",
        ),
        (
            {"model_type": "qwen2", "max_window_layers": "all"},
            r"max_window_layers: found 'all', expected a whole number",
        ),
        (
            {"model_type": "llama", "rope_scaling": "linear"},
            r"rope_scaling: found 'linear', expected an object with rope_type",
        ),
        (
            {"model_type": "llama", "rope_scaling": {"type": "linear"}},
            r"rope_scaling\.factor: missing, expected a value",
        ),
        (
            {
                "model_type": "llama",
                "rope_scaling": LLAMA3 | {"high_freq_factor": 1.0},
            },
            r"high_freq_factor: found 1\.0, expected more than low_freq_factor, 1\.0",
        ),
        (
            {
                "model_type": "llama",
                "rope_theta": 1e4,
                "rope_parameters": {"rope_theta": 5e5},
            },
            r"rope_theta is 10000\.0 and 500000\.0 in two places: expected the same",
        ),
        (
            {
                "model_type": "llama",
                "rope_scaling": LLAMA3,
                "rope_parameters": {"rope_type": "linear", "factor": 2.0},
            },
            r"rope_parameters and rope_scaling: found .*, expected one of them",
        ),
        (
            {"model_type": "bloom", "n_layer": 3, "num_hidden_layers": 4},
            r"n_layer is 3 and 4 in two spellings: expected the same",
        ),
        *(
            (
                {"model_type": name, key: number},
                f"{key}: found 1000.*, expected at most",
            )
            for name, key in (
                ("llama", "num_hidden_layers"),
                ("qwen3", "num_hidden_layers"),
                ("opt", "num_hidden_layers"),
                ("bloom", "n_layer"),
                ("llama", "hidden_size"),
                ("llama", "vocab_size"),
            )
            for number in (10**12, 10**30)
        ),
        ({"model_type": "llama", "num_hidden_layers": 5000}, "expected at most 4,096"),
        (
            {"model_type": "llama", "rope_theta": 10**400},
            "rope_theta: found 1000.*, expected a positive number of at most 1e.30",
        ),
        (
            {"model_type": "llama", "hidden_size": 1 << 21, "head_dim": 64},
            "hidden_size is 2097152, expected at most 1,048,576",
        ),
        (
            {"model_type": "llama", "num_attention_heads": 1024, "head_dim": 2048},
            "1024 heads of width 2048 are 2097152 wide together, expected at most",
        ),
        (f'{{"model_type": "llama", "vocab_size": 1{5000 * "0"}}}', "is not JSON: Exc"),
    ],
)
def test_an_invalid_config_is_refused(
    config: dict[str, Any] | str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        read(config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere: cannot be read \(No such file"):
        read_architecture(tmp_path / "nowhere")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"config\.json: is not UTF-8 text \(byte 0\)"):
        read_architecture(tmp_path)


def test_reading_loads_neither_transformers_nor_jax() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from llmpq_jax.arch.families import read_architecture\n"
        f"read_architecture(Path({str(GOLDEN / 'llama')!r}))\n"
        "print(sorted({'transformers', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def _transformers_config(config: dict[str, Any]) -> object:
    keys = {key: value for key, value in config.items() if key != "model_type"}
    # They fill the rotary dictionary in where it stands.
    return CONFIG_MAPPING[config["model_type"]](**json.loads(json.dumps(keys)))
