"""The judge: masks, Fourier shell correlation, resolution. Shares no code with rendering, training or backprojection."""
