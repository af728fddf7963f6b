"""Image formation: Fourier transforms, CTF, and the comparison of particle images with projections."""
