"""A whole reconstruction: a map, two half maps, their comparison, and the folder that holds them."""
