"""The judge: masks, Fourier shell correlation, resolution. It shares no code with what it judges."""
