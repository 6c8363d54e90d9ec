"""What bench/peers says before it takes time and disk."""

import re
import subprocess
import sys
from pathlib import Path

from place import ROOT, clean_environment


ENTER = (
    "import shutil, subprocess, sys; sys.path.insert(0, sys.argv[1]); import environment\n"
    "{change}\n"
    "try: environment.enter()\n"
    "except environment.Failure as failure: sys.exit(str(failure))\n"
)


def entered(change: str, cache: Path) -> list[str]:
    """What the program says on its way into its environment, with something changed about the machine."""
    command = [sys.executable, "-c", ENTER.format(change=change), ROOT / "bench" / "peers"]
    environment = clean_environment(XDG_CACHE_HOME=str(cache))
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    return ran.stderr.splitlines()


def test_the_peers_say_what_they_install_before_they_do(tmp_path):
    # The first command of the installation speaks, and fails.
    change = "subprocess.run = lambda command: print('RUNS', *command, file=sys.stderr) or subprocess.CompletedProcess(command, 1)"
    folder = tmp_path / "remote-vae" / "peers"
    first, second, third, runs, failure = entered(change, tmp_path)
    assert first == f"Installing the engines to compare with, once, into {folder}:"
    assert re.fullmatch(
        r"  about [\d.]+ GB to fetch from PyPI, [\d.]+ GB on the disk, \d+ minutes with 100 Mbit/s; and [\d.]+ GB for each size "
        r"of pictures\.",
        second,
    )
    assert third == f"  Nothing else is removed or changed; `rm -r {folder}` removes all of it."
    assert runs.startswith("RUNS ") and "venv" in runs
    assert failure == f"the peers could not be installed into {folder}, see above"


def test_the_peers_do_not_begin_what_the_disk_cannot_hold(tmp_path):
    change = "shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9, 8, 10**9)"
    *plan, failure = entered(change, tmp_path)
    assert len(plan) == 3
    assert re.fullmatch(r"the peers need [\d.]+ GB in .*, and there are 1\.0 GB free; XDG_CACHE_HOME names another folder", failure)
    assert not (tmp_path / "remote-vae" / "peers").exists()
