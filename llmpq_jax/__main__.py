"""The program `llmpq-jax`, also as `python -m llmpq_jax`."""

from llmpq_jax.interrupts import exit_process, handle_signals, is_interrupted


def main() -> None:
    """Runs the command that was typed."""
    # Before all that takes time, so that no moment is without it.
    handle_signals()
    from llmpq_jax.cli import main as run

    try:
        run()
    except SystemExit as end:
        if is_interrupted():
            exit_process(end.code)
        raise


if __name__ == "__main__":
    main()
