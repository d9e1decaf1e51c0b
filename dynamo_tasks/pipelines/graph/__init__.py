"""The parts of a pipeline: operators, functions, the job."""
