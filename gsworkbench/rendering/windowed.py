"""A vectorised CPU backend in plain torch: each Gaussian is evaluated in a window around it only."""
