# From paper_figures/experiments to every table, figure and verdict, and the page that says claim by claim what holds:
#
#     env/run snakemake all                          at laptop scale
#     env/run snakemake all --config scale=smoke     or paper
#     env/run snakemake fig9                         one experiment, by its name in paper_figures/experiments
#
# Results are in results/SCALE, figures, tables and the page in paper_figures/output/SCALE. Two rules for each experiment:
# one makes the runs that no experiment before it has made, the other judges them and decides. Rules carry a digest of the
# code they run, so a change of the code re-runs what depends on it and nothing else. Threads are set in env/profiles.
import atexit
import contextlib
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

from gsworkbench.simulation.deposited_poses import DEPOSITED, is_installed
from gsworkbench.particles.empiar import ARCHIVE, read_cards
from gsworkbench.io.locks import lock_folder
from gsworkbench.experiments.digest import notebook_digest, source_digest
from gsworkbench.experiments.plan import read_registry
from gsworkbench.experiments.run_keys import code_of

registry = read_registry(config.get("scale", "laptop"))
results = f"results/{registry.scale}"
paper = f"paper_figures/output/{registry.scale}"
notebook = "notebooks/10_claim.ipynb"
claim_digest = notebook_digest(notebook, without=("gsworkbench.experiments.make_runs", "gsworkbench.methods.gradient_schemes"))
ours = contextlib.ExitStack()
atexit.register(ours.close)


# In place of Snakemake's own lock, which outlives a process that was killed (env/profiles has nolock).
onstart:
    try:
        ours.enter_context(lock_folder(Path(results), "notebooks"))
        ours.enter_context(lock_folder(Path(paper)))
    except OSError as error:
        raise WorkflowError(f"{error.filename}: {error.strerror}.")


def runs_text(name):
    """What an experiment's runs are made from; those of deposited poses, of whether these are installed too."""
    owned = registry.owned[name]
    text = yaml.safe_dump({run.name: registry.parameters("runs", run.name) for run in owned})
    optional = any(run.config.dataset.poses == DEPOSITED for run in owned)
    return text + f"deposited: {is_installed()}" * optional


def slow_runs(name):
    """How many of an experiment's own runs see every particle again and again: these begin first."""
    return sum(run.config.reconstruction.row.iterates for run in registry.owned[name])


def figure_files(name, suffix):
    drawn = registry.experiments[name].figure and not registry.experiments[name].not_run
    return [f"{paper}/{name}.{suffix}"] if drawn else []


rule all:
    input:
        f"{paper}/report.html",
        f"{paper}/crate.zip",


for name, experiment in registry.experiments.items():

    rule:
        name:
            f"runs_{name}"
        output:
            f"{results}/made/{name}.json",
        log:
            f"{results}/logs/runs_{name}.log",
        priority: slow_runs(name)
        params:
            name=name,
            runs=runs_text(name),
            digest=code_of(registry.owned[name]),
        shell:
            "TQDM_DISABLE=1 NUMPY_MADVISE_HUGEPAGE=0 python -m gsworkbench.experiments.make_runs"
            " {registry.scale} {params.name} {results} {output} > {log} 2>&1"

    rule:
        name:
            name
        input:
            [f"{results}/made/{owner}.json" for owner in registry.owners(name)],
        output:
            *figure_files(name, "svg"),
            *[report(f, caption="env/caption.rst", category=experiment.source) for f in figure_files(name, "png")],
            outcome=f"{paper}/{name}.json",
            table=f"{paper}/{name}.csv",
            page=f"{paper}/{name}.md",
        log:
            f"{results}/logs/{name}.log",
        params:
            name=name,
            row=repr(experiment),
            question=experiment.question,
            claim=experiment.claim,
            digest=claim_digest,
            executed=f"{results}/notebooks/{name}.ipynb",
        shell:
            "python -m gsworkbench.experiments.run_notebook {notebook} {params.executed} --set experiment={params.name}"
            " scale={registry.scale} results_dir={results} output_dir={paper} > {log} 2>&1"


rule page:
    input:
        [f"{paper}/{name}.json" for name in registry.experiments],
    output:
        report(f"{paper}/report.html", caption="env/caption.rst", category="page"),
        f"{paper}/report.md",
        f"{results}/results.csv",
    params:
        digest=source_digest("gsworkbench.experiments.report"),
    shell:
        "python -m gsworkbench.experiments.report {registry.scale} {results} {paper}"


rule crate:
    input:
        f"{paper}/report.html",
        f"{paper}/report.md",
        f"{results}/results.csv",
        [f"{paper}/{name}.json" for name in registry.experiments],
    output:
        f"{paper}/crate.zip",
    params:
        digest=source_digest("gsworkbench.experiments.crate"),
    shell:
        "python -m gsworkbench.experiments.crate {registry.scale} {results} {paper}"


# Particles that the papers used, by the name of their entry: env/run snakemake empiar_10180. A transfer that was broken
# off goes on; `archive` may name a mirror.
for entry in read_cards():

    rule:
        name:
            f"empiar_{entry}"
        output:
            touch(f"results/empiar/{entry}/complete"),
        params:
            entry=entry,
            archive=config.get("archive", ARCHIVE),
        shell:
            "python -m gsworkbench fetch {params.entry} --out results/empiar/{params.entry} --archive {params.archive}"
