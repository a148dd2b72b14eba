"""The command line: ``python -m lightning_vos fit|validate|test|predict --config ...``."""

from lightning_vos.cli import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
