"""The servers that the tests share."""

import pytest
from models import REAL, demo
from service import serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One process with all models; SD v1 comes first, so it is the default."""
    arguments = [f"--model={model.name}={model.folder}" for model in REAL] + ["--model=demo=demo"]
    with serving(arguments, tmp_path_factory.mktemp("server") / "log") as service:
        yield service


@pytest.fixture(scope="session", name="demo")
def demo_model():
    """The embedded model as diffusers sees it."""
    return demo()
