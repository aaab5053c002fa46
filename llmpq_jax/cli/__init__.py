"""The command `llmpq-jax`: parses options, calls one function, prints.

Our errors are one line on stderr with exit code 1; wrong use exits with 2, Ctrl-C with 130 and
SIGTERM with 143.
"""

from llmpq_jax.cli.check import check_command
from llmpq_jax.cli.compare import compare_command
from llmpq_jax.cli.devices import devices_command
from llmpq_jax.cli.evaluate import evaluate_command
from llmpq_jax.cli.explain import explain_command
from llmpq_jax.cli.export import export_command
from llmpq_jax.cli.generate import generate_command
from llmpq_jax.cli.group import main
from llmpq_jax.cli.indicate import indicate_command
from llmpq_jax.cli.profile import profile_command
from llmpq_jax.cli.quantize import quantize_command
from llmpq_jax.cli.quickstart import quickstart_command
from llmpq_jax.cli.serve import serve_command
from llmpq_jax.cli.solve import solve_command
from llmpq_jax.cli.sweep import sweep_command

for _command in (
    devices_command,
    profile_command,
    indicate_command,
    solve_command,
    compare_command,
    explain_command,
    sweep_command,
    check_command,
    generate_command,
    serve_command,
    evaluate_command,
    quantize_command,
    export_command,
    quickstart_command,
):
    main.add_command(_command)

__all__ = ["main"]
