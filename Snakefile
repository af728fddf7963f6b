# From paper_figures/experiments to every table, figure and verdict, and the page that says claim by claim what holds:
#
#     env/run snakemake all                          at laptop scale
#     env/run snakemake all --config scale=smoke     or paper, or empiar: the papers' own particles
#     env/run snakemake fig9                         one experiment, by its name in paper_figures/experiments
#
# Results are in results/SCALE, figures, tables and the page in paper_figures/output/SCALE. Two rules for each experiment:
# one makes the runs that no experiment before it has made, the other judges them and decides. At the large scales there
# is a job for each data set and each run in its place, and the images of a data set are deleted when its runs are done.
# Rules carry a digest of the code they run, so a change of the code re-runs what depends on it and nothing else. Threads
# are set in env/profiles.
import atexit
import contextlib
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

from gsworkbench.simulation.deposited_poses import DEPOSITED, is_installed
from gsworkbench.particles.empiar import ARCHIVE
from gsworkbench.particles.entry_card import EntryParticles, find_card, read_cards
from gsworkbench.io.locks import lock_folder
from gsworkbench.experiments import forecast
from gsworkbench.experiments.digest import notebook_digest, source_digest
from gsworkbench.experiments.paper_tables import PRINTED
from gsworkbench.experiments.plan import EMPIAR_SCALES, read_registry
from gsworkbench.experiments.run_keys import card_text, code_of, entry_digest, simulation_digest

registry = read_registry(config.get("scale", "laptop"))
is_large = registry.scale in ("paper", *EMPIAR_SCALES)
results = f"results/{registry.scale}"
paper = f"paper_figures/output/{registry.scale}"
notebook = "notebooks/10_claim.ipynb"
claim_digest = notebook_digest(notebook, without=("gsworkbench.experiments.make_runs", "gsworkbench.methods.gradient_schemes"))
ours = contextlib.ExitStack()
atexit.register(ours.close)


# In place of Snakemake's own lock, which outlives a process that was killed (env/profiles has nolock).
onstart:
    if is_large:
        print("\n".join([*forecast.forecast(registry), forecast.short_of_disk(registry, Path(results))]), flush=True)
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


def data_text(dataset):
    """What a data set is made from, and the code that makes it."""
    made_of = registry.made_of(dataset)
    text = yaml.safe_dump(registry.parameters("datasets", dataset))
    if isinstance(made_of, EntryParticles):
        return text + card_text(made_of.entry) + entry_digest()
    return text + f"deposited: {is_installed()}" * (made_of.poses == DEPOSITED) + simulation_digest()


def downloaded(dataset):
    """What a data set is made of: the files of its entry, where it is known what they are."""
    entry = getattr(registry.made_of(dataset), "entry", None)
    return [] if entry is None or not can_fetch(entry) else [f"{downloads}/{entry}/complete"]


def can_fetch(entry):
    try:
        return find_card(entry).table is not None
    except ValueError:  # a card with blanks
        return False


def made_runs(name):
    """What says that all runs of an experiment are made."""
    if is_large:
        return [f"{results}/made/{run.name}.json" for run in registry.experiments[name].all_runs]
    return [f"{results}/made/{owner}.json" for owner in registry.owners(name)]


def figure_files(name, suffix):
    drawn = registry.experiments[name].figure and not registry.experiments[name].not_run
    return [f"{paper}/{name}.{suffix}"] if drawn else []


downloads = results if registry.scale in EMPIAR_SCALES else "results/empiar"


wildcard_constraints:
    dataset="[^/]+",
    run="[^/]+",


rule all:
    input:
        f"{paper}/report.html",
        f"{paper}/crate.zip",
        [f"{paper}/papers_tables.md"] * (registry.scale in EMPIAR_SCALES),


if is_large:

    rule dataset:
        input:
            lambda w: downloaded(w.dataset),
        output:
            temp(f"{results}/datasets/{{dataset}}/particles.mrcs"),
        log:
            f"{results}/logs/dataset_{{dataset}}.log",
        params:
            made_from=lambda w: data_text(w.dataset),
        resources:
            mem_mb=lambda w: forecast.needs_of_dataset(registry.made_of(w.dataset)).mem_mb,
            disk_mb=lambda w: forecast.needs_of_dataset(registry.made_of(w.dataset)).disk_mb,
            runtime=lambda w: forecast.needs_of_dataset(registry.made_of(w.dataset)).runtime,
        shell:
            "TQDM_DISABLE=1 python -m gsworkbench.experiments.make_runs"
            " {registry.scale} {wildcards.dataset} {results} --dataset > {log} 2>&1"

    rule run:
        input:
            lambda w: f"{results}/datasets/{registry.runs[w.run].dataset}/particles.mrcs",
        output:
            f"{results}/made/{{run}}.json",
        log:
            f"{results}/logs/run_{{run}}.log",
        priority: 1  # before further images are made
        params:
            runs=lambda w: yaml.safe_dump(registry.parameters("runs", w.run)),
            digest=lambda w: code_of([registry.runs[w.run]]),
        resources:
            mem_mb=lambda w: forecast.needs_of_run(registry.runs[w.run]).mem_mb,
            disk_mb=lambda w: forecast.needs_of_run(registry.runs[w.run]).disk_mb,
            runtime=lambda w: forecast.needs_of_run(registry.runs[w.run]).runtime,
        shell:
            "TQDM_DISABLE=1 NUMPY_MADVISE_HUGEPAGE=0 python -m gsworkbench.experiments.make_runs"
            " {registry.scale} {wildcards.run} {results} {output} > {log} 2>&1"

else:

    for name in registry.experiments:

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


for name, experiment in registry.experiments.items():

    rule:
        name:
            name
        input:
            made_runs(name),
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
        resources:
            **(forecast.needs_of_judging(registry, name)._asdict() if is_large else {}),
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


rule papers_tables:
    input:
        f"{results}/results.csv",
    output:
        f"{paper}/papers_tables.md",
    params:
        printed=PRINTED.read_text(encoding="utf-8"),
        digest=source_digest("gsworkbench.experiments.paper_tables"),
    shell:
        "python -m gsworkbench.experiments.paper_tables {registry.scale} {results} {paper}"


# Particles that the papers used, by the name of their entry: env/run snakemake empiar_10180. A transfer that was broken
# off goes on; `archive` may name a mirror.
for entry in read_cards():

    rule:
        name:
            f"empiar_{entry}"
        output:
            touch(f"{downloads}/{entry}/complete"),
        params:
            entry=entry,
            archive=config.get("archive", ARCHIVE),
            card=card_text(entry),
        shell:
            "python -m gsworkbench fetch {params.entry} --out {downloads}/{params.entry} --archive {params.archive}"
