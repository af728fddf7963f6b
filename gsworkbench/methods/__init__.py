"""The methods that make a map of a stack of particles."""
