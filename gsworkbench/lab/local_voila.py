"""voila that answers to this machine's own names alone: python -m gsworkbench.lab.local_voila NOTEBOOK OPTIONS

voila itself lets every Host header pass. A page elsewhere whose name is made to lead to 127.0.0.1 (DNS rebinding) could
then talk to it from the user's browser. JupyterLab on loopback refuses such requests, and so does this.
"""

from __future__ import annotations

from typing import Any

from voila.app import Voila


class LocalVoila(Voila):
    """voila with the check of the Host header that a Jupyter server on loopback has."""

    def init_settings(self) -> dict[str, Any]:
        return super().init_settings() | {"allow_remote_access": False, "local_hostnames": ["localhost"]}


if __name__ == "__main__":
    LocalVoila.launch_instance()
