"""The page by keyboard, on phones, in the dark, with a slider, and to the rules of axe."""

import io
import re

import numpy as np
import pytest
import requests
from compare import pixels, psnr
from page_tab import DESKTOP, PHONE, SCREENSHOTS, check, decode, drop, opened, try_it
from PIL import Image
from place import PHOTOGRAPH
from playwright.sync_api import expect


def test_two_pictures_are_compared_by_keyboard(page):
    try_it(page)
    page.get_by_text("JPEG", exact=True).click()
    page.get_by_label("Quality").fill("3")
    decode(page)
    expect(page.locator("#slider")).to_be_hidden()
    page.get_by_label("Compare with").select_option(label="the picture before (PNG)")
    slider = page.get_by_role("slider")
    slider.focus()
    shown = []
    for key in ["Home", "ArrowRight", "End"]:
        page.keyboard.press(key)
        shown.append((slider.input_value(), page.locator("#frame").screenshot()))
    assert [value for value, _ in shown] == ["0", "1", "100"]
    # At its ends it shows one of the two: the one is full of blocks, the other is not.
    picture = pixels(PHOTOGRAPH.read_bytes(), "PNG")
    # Without the mark of the focus, the handle, and a last row that belongs to the frame in part.
    inner = np.s_[8:500, 32:480]
    rough, fine = (psnr(pixels(image, "PNG")[inner], picture[inner]) for _, image in (shown[0], shown[2]))
    assert rough + 2 < fine
    assert slider.get_attribute("aria-valuetext") == "100 % PNG"


def test_everything_by_keyboard(page):
    """From the top of the page to a picture, and to the code for it, without a mouse."""
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "try":
            break
    assert reached[-1] == "try"
    assert "file" in reached
    page.keyboard.press("Enter")
    expect(page.locator("#picture")).to_be_visible(timeout=60_000)
    page.get_by_role("tab", name="curl").focus()
    for name in ["Python", "Rust", "curl"]:
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_everybody_can_use_it(browser, served, theme, device):
    settings = (PHONE if device == "phone" else DESKTOP) | {"color_scheme": theme}
    with opened(browser, served.url, **settings) as page:
        expect(page.locator("#try")).to_be_enabled()
        check(page, "empty")
        try_it(page)
        page.get_by_text("JPEG", exact=True).click()
        page.get_by_text("More options").click()
        page.get_by_label("Scale the latents").select_option("factors")
        decode(page)
        page.get_by_label("Compare with").select_option("before")
        check(page, "with a result")
        page.screenshot(path=SCREENSHOTS / f"{device}-{theme}.png", full_page=True)
        # Nothing sticks out at the side.
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
        page.get_by_label("Quality").fill("0")
        decode(page)
        expect(page.get_by_role("alert")).to_be_visible()
        check(page, "with an error")
        page.screenshot(path=SCREENSHOTS / f"{device}-{theme}-error.png")
        expect(page.get_by_role("alert")).to_be_in_viewport()
        page.goto(f"{served.url}/docs")
        expect(page.locator("#content")).not_to_have_attribute("aria-busy", "true")
        page.locator("summary").first.click()
        check(page, "the API")
        page.screenshot(path=SCREENSHOTS / f"{device}-{theme}-docs.png")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0


def test_no_words_are_cut_on_a_phone(browser, served):
    with opened(browser, served.url, **PHONE) as page:
        expect(page.locator("#try")).to_be_enabled()
        page.get_by_text("More options").click()
        # What a closed list can show is as wide as the list, less its arrow.
        widths = """select => {
            const pen = document.createElement("canvas").getContext("2d");
            const style = getComputedStyle(select);
            pen.font = style.font;
            const room = select.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 20;
            return [...select.options].map(option => [option.text, pen.measureText(option.text).width, room]);
        }"""
        for text, width, room in page.get_by_label("Scale the latents").evaluate(widths):
            assert width <= room, text
        small = io.BytesIO()
        Image.open(PHOTOGRAPH).convert("RGB").resize((40, 32)).save(small, "PNG")
        drop(page, "small.png", small.getvalue())
        page.get_by_role("button", name="Encode with demo").click()
        name = page.get_by_text("Original", exact=True)
        expect(name).to_be_visible(timeout=60_000)
        cut = """element => {
            const text = document.createRange();
            text.selectNodeContents(element);
            const {left, right} = text.getBoundingClientRect();
            const boxes = [];
            for (let box = element; box; box = box.parentElement) {
                if (getComputedStyle(box).overflowX !== "visible") boxes.push(box.getBoundingClientRect());
            }
            return boxes.some(box => left < box.left || right > box.right);
        }"""
        assert not name.evaluate(cut)
        # And the picture is large enough to be compared.
        assert page.locator("#frame").bounding_box()["width"] >= 200


def test_the_api_is_shown_whole(browser, served):
    document = requests.get(f"{served.url}/openapi.json", timeout=10).json()
    with opened(browser, served.url) as page:
        page.get_by_role("link", name="API").click()
        for path in document["paths"]:
            expect(page.get_by_text(path, exact=True).first).to_be_visible()
        operation = page.locator("details", has_text="/{model}/predict").first
        operation.locator("summary").click()
        for name in document["components"]["parameters"].keys() - {"model"}:
            expect(operation.locator("dt", has_text=re.compile(f"^{name}$")).first).to_be_visible()
