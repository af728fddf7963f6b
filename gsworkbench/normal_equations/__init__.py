"""Normal equations of the map, accumulated from particle images once."""
