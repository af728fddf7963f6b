"""What the command line says of a judge before one is needed. Imports nothing."""

MODEL_B_FACTOR = 60.0  # A^2, of every atom of a model; inside a shell the FSC does not depend on it, but for the mask
PROGRAMS = ("RELION", "cryoDRGN", "cryoSPARC", "GEM/CryoNeRF")  # the names of definitions.DEFINITIONS
