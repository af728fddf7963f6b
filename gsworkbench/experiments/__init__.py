"""What drives the core from notebooks and Snakemake: experiments, results, tables, plots. The core never imports it."""
