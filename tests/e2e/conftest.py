"""The servers and the browser that the tests share."""

import pytest
from browser import FLAGS, executable
from models import REAL, VIDEO, demo
from page_tab import opened
from place import ROOT
from playwright.sync_api import expect, sync_playwright
from service import serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One process with all models; SD v1 comes first, so it is the default."""
    arguments = [f"--model={model.name}={model.folder}" for model in REAL] + ["--model=demo=demo"]
    with serving(arguments, tmp_path_factory.mktemp("server") / "log") as service:
        yield service


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """One process with the models of videos; an image model beside them."""
    arguments = [f"--model={model.name}={model.folder}" for model in VIDEO] + ["--model=demo=demo"]
    with serving(arguments, tmp_path_factory.mktemp("videos") / "log") as service:
        yield service


@pytest.fixture(scope="session", name="demo")
def demo_model():
    """The embedded model as diffusers sees it."""
    return demo()


@pytest.fixture(scope="session")
def browser():
    """A browser; `browser.new_page()` gives a tab that shares nothing with others."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """What the page is tried with: the demonstration model, which has an example, and a small video model, which has none."""
    arguments = ["--model=demo=demo", f"--model=video={ROOT / 'fixtures' / 'vae' / 'video'}"]
    with serving(arguments, tmp_path_factory.mktemp("page") / "log") as service:
        yield service


@pytest.fixture
def page(browser, served):
    with opened(browser, served.url) as page:
        expect(page.locator("#try")).to_be_enabled()
        yield page
