"""What a pipeline is made of: operators, functions, the job."""
