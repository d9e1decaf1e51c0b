"""``python -m dynamo_tasks``: the same as the command ``dynamo-tasks``."""

from dynamo_tasks.serve.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
