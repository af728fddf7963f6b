"""One run of the workflow as a Workflow Run RO-Crate: python -m gsworkbench.experiments.crate SCALE RESULTS OUTPUT.

OUTPUT/crate.zip holds the workflow, what went into it, the page, figures, tables and executed notebooks, and the
run.json of every data set and run, with metadata that say which made which, in the profiles Process Run, Workflow Run
(0.5) and Workflow RO-Crate (1.0). Maps and particles are not in it: their run.json says how to make them again.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsworkbench import __version__
from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import ROOT, experiments_folder
from gsworkbench.io.files import atomic_path

if TYPE_CHECKING:
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

LICENSE = "https://spdx.org/licenses/BSD-3-Clause"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
PARAMETER_PROFILE = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
SOURCES = ("notebooks/10_claim.ipynb", "env/requirements.txt")  # beside the experiments of the scale
FORMATS = {
    ".json": "application/json", ".ipynb": "application/x-ipynb+json", ".csv": "text/csv", ".md": "text/markdown",
    ".html": "text/html", ".png": "image/png", ".svg": "image/svg+xml", ".yaml": "application/yaml",
    ".txt": "text/plain",
}  # fmt: skip


def write_crate(scale: str, results: Path, output: Path) -> Path:
    """Write OUTPUT/crate.zip of the outcomes, results/SCALE and paper_figures/output/SCALE; return its path.

    Where there is no page yet, or the library rocrate is not installed, raises InputError.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise InputError(
            "the library rocrate is not installed", remedy="pip install 'gsworkbench[workflow]'"
        ) from error
    if not (output / "report.html").is_file():
        raise InputError("there is no report.html", file=output, remedy="run snakemake all")
    crate = ROCrate(version="1.1", gen_preview=False)  # what the profiles are made for
    _describe(crate, scale)
    workflow = _workflow(crate)
    _conform(crate)
    files = [*sorted(experiments_folder(scale).glob("*.yaml")), *(ROOT / name for name in SOURCES)]
    inputs = [_file(crate, file, file.relative_to(ROOT).as_posix()) for file in files]
    inputs.append(_setting(crate, "scale", scale))
    made = [_file(crate, path, f"outputs/{path.name}") for path in _outputs(results, output)]
    notebooks = sorted((results / "notebooks").glob("*.ipynb"))
    made += [_file(crate, path, f"notebooks/executed/{path.name}") for path in notebooks]
    actions = list(_runs(crate, results))
    page = crate.dereference("outputs/report.html")
    for parameter, value in (("experiments", inputs[0]), ("scale", inputs[-1])):
        _parameter(crate, workflow, "input", parameter, value)
    _parameter(crate, workflow, "output", "page", page)
    times = [t for action in actions for t in (action.get("startTime"), action.get("endTime")) if t]
    whole = crate.add_action(workflow, object=inputs, result=made, properties={
        "name": f"snakemake all --config scale={scale}",
        "startTime": min(times, default=None) or _modified(output / "report.html"),
        "endTime": _modified(output / "report.html"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    })  # fmt: skip
    crate.root_dataset["mentions"] = [whole, *actions]
    path = output / "crate.zip"
    with atomic_path(path) as temporary:
        crate.write_zip(temporary)
    return path


def _describe(crate: ROCrate, scale: str) -> None:
    from rocrate.model.contextentity import ContextEntity

    crate.name = f"gsworkbench, every claim at scale {scale}"
    crate.description = (
        "Claims about maps of 3D Gaussians from cryo-EM particles, examined by simulation: workflow, settings, "
        "outcomes, executed notebooks and the record of every run."
    )
    licence = ContextEntity(
        crate, LICENSE, {"@type": "CreativeWork", "name": "BSD 3-Clause License", "identifier": LICENSE}
    )
    crate.license = crate.add(licence)


def _workflow(crate: ROCrate) -> Any:
    workflow = crate.add_workflow(
        ROOT / "Snakefile", "Snakefile", main=True, lang="snakemake", lang_version=metadata.version("snakemake")
    )
    workflow["name"] = "gsworkbench: from paper_figures/experiments to every table, figure and verdict"
    workflow["softwareVersion"] = __version__
    workflow["license"] = crate.dereference(LICENSE)
    return workflow


def _conform(crate: ROCrate) -> None:
    """Name the profiles: those that Workflow Run Crate 0.5 is made of, where the library would name a later one."""
    from rocrate.model.contextentity import ContextEntity

    crate.root_dataset["conformsTo"] = [
        crate.add(ContextEntity(crate, url, {"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in PROFILES.items()
    ]


def _file(crate: ROCrate, path: Path, name: str) -> Any:
    properties = {"name": path.name, "contentSize": str(path.stat().st_size), "dateModified": _modified(path)}
    if path.suffix in FORMATS:
        properties["encodingFormat"] = FORMATS[path.suffix]
    return crate.add_file(path, name, properties=properties)


def _outputs(results: Path, output: Path) -> Iterator[Path]:
    """The page, figures, tables and verdicts, and the table of all results."""
    yield from (p for p in sorted(output.iterdir()) if p.suffix in FORMATS and not p.name.startswith("."))
    yield results / "results.csv"


def _setting(crate: ROCrate, name: str, value: str) -> ContextEntity:
    from rocrate.model.contextentity import ContextEntity

    entity = ContextEntity(crate, f"#setting-{name}", {"@type": "PropertyValue", "name": name, "value": value})
    return crate.add(entity)


def _parameter(crate: ROCrate, workflow: Any, kind: str, name: str, value: Any) -> None:
    """Declare an input or output of the workflow, of which `value` is an example."""
    from rocrate.model.contextentity import ContextEntity

    kinds = {"PropertyValue": "Text", "File": "File"}
    profile = crate.dereference(PARAMETER_PROFILE) or crate.add(
        ContextEntity(crate, PARAMETER_PROFILE, {"@type": "CreativeWork", "name": "FormalParameter", "version": "1.0"})
    )
    parameter = crate.add(ContextEntity(crate, f"#parameter-{name}", {
        "@type": "FormalParameter", "name": name, "additionalType": kinds[value.type], "valueRequired": True,
    }))  # fmt: skip
    parameter["conformsTo"] = profile
    value["exampleOfWork"] = parameter
    workflow.append_to(kind, parameter)


def _runs(crate: ROCrate, results: Path) -> Iterator[Any]:
    """An action for every data set and run that has a run.json, which is its result."""
    for path in sorted((results / "datasets").glob("*/run.json")) + sorted((results / "runs").glob("*/run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        kind, name = path.parent.parent.name, path.parent.name
        result = _file(crate, path, f"{kind}/{name}/run.json")
        used = [crate.dereference(f"datasets/{Path(file).parent.name}/run.json") for file in record["inputs"]]
        unique = {entity.id: entity for entity in used if entity is not None}
        action = crate.add_action(_program(crate, record["versions"]), object=list(unique.values()), result=[result])
        action["name"] = f"{kind.removesuffix('s')} {name}"
        action["description"] = "gsworkbench.experiments.make_runs; settings and seeds are in run.json"
        for ours, theirs in (("startTime", "started"), ("endTime", "ended")):
            if record.get(theirs):
                action[ours] = record[theirs]
        yield action


def _program(crate: ROCrate, versions: dict[str, str]) -> ContextEntity:
    """The program that made a run, once for each of its versions."""
    from rocrate.model.contextentity import ContextEntity

    version = versions.get("git") or versions["gsworkbench"]
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return crate.dereference(f"#gsworkbench-{version}") or crate.add(ContextEntity(crate, f"#gsworkbench-{version}", {
        "@type": "SoftwareApplication", "name": "gsworkbench", "softwareVersion": version,
        "softwareRequirements": listed, "operatingSystem": platform.system(),
    }))  # fmt: skip


def _modified(path: Path) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the RO-Crate of a run of the workflow.")
    for name in ("scale", "results", "output"):
        parser.add_argument(name)
    given = parser.parse_args()
    print(write_crate(given.scale, Path(given.results), Path(given.output)))


if __name__ == "__main__":
    main()
