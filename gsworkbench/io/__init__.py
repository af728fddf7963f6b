"""Files: MRC maps, STAR tables, NumPy and pickle files, atomic writing, locks, downloads."""
