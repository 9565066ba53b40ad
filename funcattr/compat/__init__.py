"""The names of other libraries, for users who come from them: change the import line, and nothing else."""
