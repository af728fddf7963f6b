# From experiments.yaml to every table and figure:
#
#     env/run snakemake all                          at laptop scale
#     env/run snakemake all --config scale=smoke     or paper
#     env/run snakemake figure_methods               one figure or table, by its name in experiments.yaml
#
# Results are in results/SCALE, figures and tables in paper_figures/output/SCALE. Rules carry a digest of the code they
# run, so a change of the code re-runs what depends on it and nothing else. Threads and cores are set in env/profiles.
import yaml

from gsworkbench.files import write_text
from gsworkbench.workbench import plots
from gsworkbench.workbench.digest import notebook_digest, source_digest
from gsworkbench.workbench.registry import EXPERIMENTS_FILE, read_registry

registry = read_registry(config.get("scale", "laptop"), EXPERIMENTS_FILE)
results = f"results/{registry.scale}"
paper = f"paper_figures/output/{registry.scale}"


def parameters_text(wildcards):
    return yaml.safe_dump(registry.parameters(wildcards.kind, wildcards.name), sort_keys=False)


def notebook_of(wildcards):
    return f"notebooks/{registry.runs[wildcards.run].notebook}.ipynb"


def notebook_digest_of(wildcards):
    return notebook_digest(notebook_of(wildcards))


def dataset_of(wildcards):
    return f"{results}/datasets/{registry.runs[wildcards.run].dataset}"


def folders_of(experiment):
    runs = registry.experiments[experiment].runs
    datasets = dict.fromkeys(run.dataset for run in runs)
    return [f"{results}/runs/{run.name}" for run in runs] + [f"{results}/datasets/{name}" for name in datasets]


def figure_files(name):
    return [f"{paper}/{name}.{suffix}" for suffix in plots.FORMATS]


def table_files(name):
    return [f"{paper}/{name}.{suffix}" for suffix in ("csv", "md")]


wildcard_constraints:
    kind="datasets|runs",
    name="[^/]+",
    dataset="[^/]+",
    run="[^/]+",


rule all:
    input:
        [figure_files(name) for name in registry.figures],
        [table_files(name) for name in registry.tables],


rule parameters:
    output:
        f"{results}/parameters/{{kind}}/{{name}}.yaml",
    params:
        text=parameters_text,
    run:
        write_text(output[0], params.text)


rule dataset:
    input:
        f"{results}/parameters/datasets/{{dataset}}.yaml",
    output:
        directory(f"{results}/datasets/{{dataset}}"),
    log:
        f"{results}/logs/{{dataset}}.log",
    params:
        digest=source_digest("gsworkbench.workbench.datasets"),
    shell:
        "TQDM_DISABLE=1 python -m gsworkbench.workbench.datasets {input} {output} > {log} 2>&1"


rule run_notebook:
    input:
        parameters=f"{results}/parameters/runs/{{run}}.yaml",
        dataset=dataset_of,
    output:
        directory(f"{results}/runs/{{run}}"),
    log:
        f"{results}/logs/{{run}}.log",
    params:
        notebook=notebook_of,
        executed=f"{results}/notebooks/{{run}}.ipynb",
        digest=notebook_digest_of,
    shell:
        "python -m gsworkbench.workbench.run_notebook {params.notebook} {params.executed} --parameters {input.parameters}"
        " --set output_dir={output} dataset_dir={input.dataset} > {log} 2>&1"


rule collect:
    input:
        expand(f"{results}/runs/{{run}}", run=registry.runs),
    output:
        f"{results}/results.csv",
    params:
        digest=source_digest("gsworkbench.workbench.results"),
    shell:
        "python -m gsworkbench.workbench.results {registry.scale} {results} {output}"


for figure_name, figure in registry.figures.items():

    rule:
        name:
            figure_name
        input:
            f"{results}/results.csv",
            folders_of(figure.experiment),
        output:
            figure_files(figure_name),
        params:
            name=figure_name,
            row=repr((figure, registry.methods)),
            digest=source_digest("gsworkbench.workbench.plots"),
        shell:
            "python -m gsworkbench.workbench.plots {registry.scale} {params.name} {results} {paper}"


for table_name, table in registry.tables.items():

    rule:
        name:
            table_name
        input:
            f"{results}/results.csv",
        output:
            table_files(table_name),
        params:
            name=table_name,
            row=repr((table, registry.methods, registry.experiments[table.experiment].question)),
            digest=source_digest("gsworkbench.workbench.tables"),
        shell:
            "python -m gsworkbench.workbench.tables {registry.scale} {params.name} {results} {paper}"
