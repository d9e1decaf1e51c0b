"""The commands of ``dynamo-tasks``, one module each."""
