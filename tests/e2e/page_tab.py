"""A tab with the page, and what people do in it."""

import contextlib

from axe_playwright_python.sync_playwright import Axe
from place import CACHE
from playwright.sync_api import expect

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
# For whoever wants to look at what the tests have seen.
SCREENSHOTS = CACHE / "screenshots"


@contextlib.contextmanager
def opened(browser, url, **settings):
    """A tab with the page. Whatever is done in it, nobody but this server may be asked, and no script may fail."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(**(DESKTOP | settings))
    page = context.new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" and "Policy" in message.text else None)
    page.goto(url)
    yield page
    strangers = {address for address in page.asked if not address.startswith((f"{url}/", f"blob:{url}/"))}
    assert (strangers, page.faults) == (set(), [])
    assert len(page.asked) > 5
    context.close()


def try_it(page) -> None:
    page.get_by_role("button", name="Try it with an example").click()
    expect(page.get_by_role("img", name="The picture decoded from demo-latents.safetensors")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_enabled()


def decode(page) -> None:
    """Presses the button and waits for the answer."""
    with page.expect_response(lambda answer: answer.request.method == "POST", timeout=60_000):
        page.get_by_role("button", name="Decode", exact=True).click()
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_enabled()


def saved(page) -> bytes:
    """The file behind the button."""
    with page.expect_download() as download:
        page.get_by_role("link", name="Save", exact=True).click()
    return download.value.path().read_bytes()


def drop(page, name: str, content: bytes, media_type: str = "") -> None:
    """Drops a file where it says so."""
    make = """([name, bytes, type]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, { type }));
        return data;
    }"""
    data = page.evaluate_handle(make, [name, list(content), media_type])
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": data})


def check(page, name: str) -> None:
    """No barrier that axe can find."""
    results = Axe().run(page)
    assert results.violations_count == 0, f"{name}: {results.generate_report()}"
