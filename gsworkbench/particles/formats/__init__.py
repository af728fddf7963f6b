"""Readers and writers of RELION, cryoSPARC and cryoDRGN particles. Each reader ends in one ParticleStack."""
