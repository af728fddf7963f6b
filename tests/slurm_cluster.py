"""A Slurm of one node on this machine's loopback, for tests: started by root, ended with the test.

Slurm reads /etc/slurm/slurm.conf and nothing else once a job of Snakemake's plugin runs in it, so that file must not
exist before: a machine that belongs to a cluster is left alone. On Debian: apt-get install slurm-wlm munge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONF = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
SETTINGS = """\
ClusterName=gsworkbench
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldPort={port}
SlurmdPort={next_port}
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=5
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no Slurm can be started here; "" where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "starting Slurm needs root"
    return f"{CONF} exists: this machine has a Slurm of its own" if CONF.exists() else ""


@contextlib.contextmanager
def one_node(folder: Path) -> Iterator[None]:
    """Start munged, slurmctld and slurmd; end them, and remove the configuration, when the block ends."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    port = _free_port()
    settings = {"node": socket.gethostname().split(".")[0], "cpus": os.cpu_count(), "memory": memory * 9 // 10}
    for name in ("spool", "state"):
        (folder / name).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        CONF.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(CONF.unlink, missing_ok=True)
        CONF.write_text(SETTINGS.format(folder=folder, port=port, next_port=port + 1, **settings))
        if not Path("/run/munge/munge.socket.2").exists():
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            _start(stack, folder, ["runuser", "-u", "munge", "--", "/usr/sbin/munged", "-F"], "munged")
            _wait_for(lambda: Path("/run/munge/munge.socket.2").exists(), folder / "munged.log")
        _start(stack, folder, ["/usr/sbin/slurmctld", "-D", "-c"], "slurmctld")
        _start(stack, folder, ["/usr/sbin/slurmd", "-D", "-c"], "slurmd")
        _wait_for(lambda: "idle" in _output("sinfo", "-h", "-o", "%T"), folder / "slurmd.log")
        stack.callback(_output, "scancel", "--state=RUNNING")
        yield


def _start(stack: contextlib.ExitStack, folder: Path, command: list[str], name: str) -> None:
    with open(folder / f"{name}.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_end, process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(ready, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Slurm did not come up: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
