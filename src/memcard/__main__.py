"""``python -m memcard`` is the command ``memcard``."""

from memcard.cli.main import run

if __name__ == "__main__":
    run()
