"""Files: reading with messages of one line, and writing completely or not at all."""

from llmpq_jax.files.folder import new_folder
from llmpq_jax.files.json_text import json_text
from llmpq_jax.files.outputs import (
    check_folder,
    check_writable,
    is_stream,
    name_aside,
    open_stream,
    write_all,
    write_bytes,
    write_outputs,
    write_text,
    writing,
)
from llmpq_jax.files.reading import reading

__all__ = [
    "check_folder",
    "check_writable",
    "is_stream",
    "json_text",
    "name_aside",
    "new_folder",
    "open_stream",
    "reading",
    "write_all",
    "write_bytes",
    "write_outputs",
    "write_text",
    "writing",
]
