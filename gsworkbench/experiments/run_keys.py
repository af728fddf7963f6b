"""What data sets and runs are made from, as keys: settings, and digests of the code that is used. Imports no torch.

A run owes its maps to what all methods share and to the file of its own method: the code of another method can change
without making it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from gsworkbench.config import to_mapping
from gsworkbench.experiments.digest import source_digest
from gsworkbench.experiments.plan import Run
from gsworkbench.experiments.store import key_of
from gsworkbench.methods.registry import METHODS
from gsworkbench.particles.entry_card import EntryParticles, find_shipped_card, own_card
from gsworkbench.simulation.deposited_poses import DEPOSITED, is_installed
from gsworkbench.simulation.simulation_config import Simulation

# The judge is no part of making a map; a method that filters by it names it in its own file.
JUDGE = ("gsworkbench.assessment",)


def method_digest(method: str) -> str:
    """Return the digest of the code that makes maps by one method: what all methods share, and the method's own."""
    return key_of(source_digest("gsworkbench.reconstruction.run", without=JUDGE), source_digest(METHODS[method].module))


def simulation_digest() -> str:
    """Return the digest of the code that makes datasets."""
    return source_digest("gsworkbench.simulation.simulate")


def entry_digest() -> str:
    """Return the digest of the code that reads and crops the particles of EMPIAR entries."""
    return source_digest("gsworkbench.particles.entry_particles")


def card_text(entry: int) -> str:
    """Return what is known of an entry, as text: a card of one's own, filled or not, comes before ours."""
    own = own_card(entry)
    return repr(find_shipped_card(entry)) if own is None else own.read_text(encoding="utf-8")


def dataset_key(config: Simulation | EntryParticles) -> str:
    """Return the key of a data set; one that needs optional files is another once they are installed."""
    if isinstance(config, EntryParticles):
        return key_of(repr(to_mapping(config)), card_text(config.entry), entry_digest())
    optional = [is_installed()] if config.poses == DEPOSITED else []
    return key_of(repr(to_mapping(config)), simulation_digest(), *optional)


def run_key(run: Run) -> str:
    """Return the key of a run: its settings, its data set, and the code that its method reaches."""
    return key_of(
        repr(to_mapping(run.config)), dataset_key(run.config.dataset), method_digest(run.config.reconstruction.method)
    )


def code_of(runs: Iterable[Run]) -> str:
    """Return a digest of the code that makes these runs and their data sets."""
    runs = list(runs)
    methods = sorted({run.config.reconstruction.method for run in runs})
    of_entries = any(isinstance(run.config.dataset, EntryParticles) for run in runs)
    return key_of(entry_digest() if of_entries else simulation_digest(), *map(method_digest, methods))
