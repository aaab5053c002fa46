"""Text survives the tokenizer, whole or token by token, and no network is touched."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors

from llmpq_jax.checkpoint import tokenizer as tokenizer_module
from llmpq_jax.checkpoint.tokenizer import Tokenizer, missing_sentencepiece
from llmpq_jax.errors import CheckpointError, RequestError

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'bad' %}"
    "{{ raise_exception('no such role') }}{% endif %}"
    "<s>{{ message.role }}: {{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def write_tokenizer(folder: Path, *, template: str | None = None) -> None:
    """Writes a byte-level tokenizer that begins texts with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: number for number, token in enumerate(["<s>", "</s>", *alphabet])
    }
    tokenizer = FastTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    if template is not None:
        settings["chat_template"] = template
    _write(folder / "tokenizer_config.json", settings)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, template=TEMPLATE)
    return Tokenizer.load(folder)


@given(st.text())
def test_decoding_undoes_encoding(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == 0
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, adds_special_tokens=False) == ids[1:]


def test_a_chat_ends_where_the_model_is_to_answer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert ids == (
        0,
        *tokenizer.encode("user: hi", adds_special_tokens=False),
        0,
        *tokenizer.encode("assistant:", adds_special_tokens=False),
    )


def test_a_template_s_refusal_is_passed_on(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"refuses the messages \(no such role\)"):
        tokenizer.encode_chat([{"role": "bad", "content": ""}])


def test_a_checkpoint_without_a_chat_template_says_so(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with pytest.raises(
        RequestError, match=r"has no chat template: expected a model tuned"
    ):
        Tokenizer.load(tmp_path).encode_chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 7}, {"eos_token_id": 8}, (7,)),
        ({"eos_token_id": [7, 9]}, None, (7, 9)),
        ({"eos_token_id": []}, {"eos_token_id": 8}, ()),
        # A generation_config.json takes the place of config.json, whatever it has.
        ({"do_sample": False}, {"eos_token_id": 8}, (1,)),
        ({"eos_token_id": None}, {"eos_token_id": 8}, (1,)),
        (None, {"eos_token_id": [8]}, (8,)),
        (None, {"eos_token_id": None}, (1,)),
        (None, None, (1,)),
    ],
)
def test_a_text_ends_as_the_file_for_generation_says(
    tmp_path: Path, generation: object, config: object, expected: tuple[int, ...]
) -> None:
    write_tokenizer(tmp_path)
    if generation is not None:
        _write(tmp_path / "generation_config.json", generation)
    if config is not None:
        _write(tmp_path / "config.json", {"model_type": "llama"} | dict(config))  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert Tokenizer.load(tmp_path).eos_ids == expected


@pytest.mark.parametrize("found", ["</s>", -1, [1, "2"], True])
def test_an_ending_that_is_no_token_is_refused(tmp_path: Path, found: object) -> None:
    write_tokenizer(tmp_path)
    _write(tmp_path / "generation_config.json", {"eos_token_id": found})
    with pytest.raises(
        CheckpointError, match=r"eos_token_id: found .*, expected a token's n"
    ):
        Tokenizer.load(tmp_path)


def test_a_damaged_generation_config_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(b"{")
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json: cannot be read as"
    ):
        Tokenizer.load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(
        CheckpointError, match=r"tokenizer .* cannot be loaded \(.+\): expect"
    ):
        Tokenizer.load(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"tokenizer .* cannot be loaded \("):
        Tokenizer.load(tmp_path)


def test_a_missing_folder_is_never_taken_for_a_name_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nowhere: is not a folder: expected one with"
    ):
        Tokenizer.load(tmp_path / "nowhere")


def test_neither_network_nor_environment_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "the network was touched"
        raise AssertionError(msg)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    environment = dict(os.environ)
    write_tokenizer(tmp_path, template=TEMPLATE)
    _write(tmp_path / "config.json", {"model_type": "llama"})
    loaded = Tokenizer.load(tmp_path)
    loaded.encode_chat([{"role": "user", "content": "hi"}])
    # Again as a checkpoint that lacks everything but its tokenizer.
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    write_tokenizer(tmp_path)
    assert Tokenizer.load(tmp_path).decode(loaded.encode("x")) == "x"
    assert dict(os.environ) == environment


def test_loading_says_nothing(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from llmpq_jax.checkpoint.tokenizer import Tokenizer\n"
        "Tokenizer.load(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_text_of_n_tokens_has_no_more_bytes_than_n_of_the_longest(tokenizer):
    assert tokenizer.max_token_bytes == len("<s>") + 1
    text = "naïve \u2028 ja" * 20
    assert len(text.encode()) <= len(tokenizer.encode(text)) * tokenizer.max_token_bytes


def test_a_tokenizer_that_sentencepiece_reads_says_so(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(tokenizer_module, "find_spec", lambda _: None)
    message = (
        rf"^tokenizer {tmp_path}: .* sentencepiece is not installed, which reads it"
    )
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(tmp_path)
    write_tokenizer(tmp_path)
    assert missing_sentencepiece(tmp_path) is None
    Tokenizer.load(tmp_path)
