"""Simulated particle images. Shares no code with the fits: it uses neither imaging, rendering nor methods."""
