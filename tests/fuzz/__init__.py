"""Fuzzing of everything that reads a user's file: targets.py judges one input, run.py makes inputs (atheris)."""
