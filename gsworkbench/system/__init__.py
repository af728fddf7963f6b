"""The machine: compiler, device, memory, processes, provenance of a run."""
