"""The servers that the tests of the Python package share."""

import contextlib

import pytest
from place import ROOT
from service import serving
from standing_in import standing_in

VAES = ROOT / "fixtures" / "vae"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The release build with the demonstration model, and small models of three families."""
    models = {"demo": "demo", "sd": VAES / "sd-like", "flux": VAES / "flux-like", "video": VAES / "video"}
    arguments = [f"--model={name}={path}" for name, path in models.items()]
    with serving(arguments, tmp_path_factory.mktemp("python") / "log") as service:
        yield service


@pytest.fixture
def stand_in():
    """Starts servers that answer as they are told, one answer after the other, and the last one again and again."""
    with contextlib.ExitStack() as stack:
        yield lambda *answers: stack.enter_context(standing_in(*answers))
