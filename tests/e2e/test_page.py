"""The page, as people use it: real clicks and keys in a real browser."""

import io
import re
import shutil

import numpy as np
import requests
import torch
from compare import pixels, psnr
from page_code import run_curl, run_python, run_rust
from page_tab import SCREENSHOTS, check, decode, drop, opened, saved, try_it
from PIL import Image
from place import PHOTOGRAPH, PHOTOGRAPH_LATENTS, PHOTOGRAPH_PSNR, ROOT
from playwright.sync_api import expect
from safetensors.torch import load_file, save, save_file
from service import serving

KEY = "0123456789abcdef"


def test_one_click_shows_the_photograph(page):
    try_it(page)
    content = saved(page)
    assert psnr(pixels(content, "PNG"), pixels(PHOTOGRAPH.read_bytes(), "PNG")) >= PHOTOGRAPH_PSNR
    facts = page.locator("#facts").inner_text()
    assert "512 × 512" in facts
    assert re.search(r"\d m?s in the model", facts)
    size = f"{len(content) / 1000:.3g} kB, PNG"
    assert size in facts


def test_options_reach_the_server(page, served):
    try_it(page)
    page.get_by_text("JPEG", exact=True).click()
    page.get_by_label("Quality").fill("30")
    page.get_by_text("More options").click()
    page.get_by_label("In tiles").check()
    page.get_by_label("Scale the latents").select_option("factors")
    page.get_by_label("Scaling factor").fill("0.5")
    page.get_by_label("Shift factor").fill("")
    decode(page)
    latents = load_file(PHOTOGRAPH_LATENTS)["latents"]
    query = {
        "shape": list(latents.shape),
        "dtype": "float16",
        "quality": 30,
        "tiling": True,
        "scaling_factor": 0.5,
    }
    headers = {"Content-Type": "tensor/binary", "Accept": "image/jpeg"}
    body = latents.numpy().tobytes()
    expected = requests.post(f"{served.url}/demo", params=query, headers=headers, data=body, timeout=60).content
    assert saved(page) == expected


SEE_PREVIEW = """() => {
  window.seen = [];
  const note = () => {
    const shown = !document.querySelector("#preview").hidden;
    if (window.seen.at(-1) !== shown) window.seen.push(shown);
  };
  new MutationObserver(note).observe(document.querySelector("#preview"), { attributes: true });
}"""


def test_a_preview_is_shown_until_the_picture_is_there(browser, tmp_path):
    """Any model of the same latents can make previews; what it makes is the server's tests' affair."""
    models = ["--model", "demo=demo", "--model", "small=demo", "--preview", "demo=small"]
    with serving(models, tmp_path / "log") as served, opened(browser, served.url) as page:
        page.evaluate(SEE_PREVIEW)
        try_it(page)
        content = saved(page)
        assert psnr(pixels(content, "PNG"), pixels(PHOTOGRAPH.read_bytes(), "PNG")) >= PHOTOGRAPH_PSNR
        assert page.evaluate("window.seen") == [True, False]
        assert re.search(r"\d m?s in the model", page.locator("#facts").inner_text())
        # The code on the page asks for the picture alone.
        assert "preview" not in page.locator("#code").inner_text()
        latents = load_file(PHOTOGRAPH_LATENTS)["latents"]
        query = {"shape": list(latents.shape), "dtype": "float16", "preview": "tiny", "image_format": "png", "do_scaling": True}
        answer = requests.post(
            f"{served.url}/demo",
            params=query,
            headers={"Content-Type": "tensor/binary", "Accept": "image/png"},
            data=latents.numpy().tobytes(),
            timeout=60,
        )
        assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace; boundary=")
        assert answer.content.count(b"content-type: image/png") == 2
        assert content in answer.content


def encode_photograph(page, side: int) -> bytes:
    """Drops the photograph, smaller, and waits until it has been there and back."""
    picture = io.BytesIO()
    Image.open(PHOTOGRAPH).convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(picture, "PNG")
    drop(page, "photograph.png", picture.getvalue(), "image/png")
    page.get_by_role("button", name="Encode and decode").click()
    expect(page.get_by_role("img", name="photograph.png, encoded and decoded again")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="Encode and decode")).to_be_enabled()
    return picture.getvalue()


def test_a_picture_goes_there_and_back(page, served):
    """Drop it, get latents, take them home, drop those, and get the same picture again."""
    original = encode_photograph(page, 512)
    facts = page.locator("#facts")
    expect(facts).to_contain_text("Encoded in")
    expect(facts).to_contain_text("float16 [1, 16, 64, 64]")
    back = saved(page)
    assert psnr(pixels(back, "PNG"), pixels(original, "PNG")) > 25

    # It is compared with the original at once: one end of the slider shows the one, the other end the other.
    expect(page.get_by_label("Compare with")).to_have_value("original")
    slider = page.get_by_role("slider")
    slider.focus()
    shown = {}
    for key in ["Home", "End"]:
        page.keyboard.press(key)
        shown[key] = pixels(page.locator("#frame").screenshot(), "PNG")
    # Without the handle, the mark of the focus and the names; the frame may begin at half a pixel.
    inner = np.s_[64:480, 32:480]
    moved = [(y, x) for y in range(-1, 2) for x in range(-1, 2)]

    def alike(picture, other):
        return max(psnr(np.roll(picture, shift, (0, 1))[inner], pixels(other, "PNG")[inner]) for shift in moved)

    assert alike(shown["End"], original) > alike(shown["Home"], original) + 5
    assert alike(shown["Home"], back) > alike(shown["End"], back) + 5
    slider.fill("50")
    page.screenshot(path=SCREENSHOTS / "encode.png", full_page=True)
    check(page, "a picture that was encoded")

    with page.expect_download() as download:
        page.get_by_role("link", name="Save latents").click()
    assert download.value.suggested_filename == "photograph.safetensors"
    latents = load_file(download.value.path())["latents"]
    # What they are: the server's own answer to the same picture.
    model = requests.get(f"{served.url}/models", timeout=10).json()["models"][0]
    query = {"sample_mode": "argmax", "scaling_factor": model["scaling_factor"], "shift_factor": model["shift_factor"]}
    answer = requests.post(f"{served.url}/demo", params=query, headers={"Content-Type": "image/png"}, data=original, timeout=60)
    assert latents.numpy().tobytes() == answer.content

    drop(page, "photograph.safetensors", download.value.path().read_bytes())
    decode(page)
    assert saved(page) == back


def test_webp_is_an_answer(page, served):
    page.get_by_text("WebP", exact=True).click()
    page.get_by_label("Quality").fill("60")
    encode_photograph(page, 128)
    rough = saved(page)
    assert Image.open(io.BytesIO(rough)).format == "WEBP"
    page.get_by_label("Quality").fill("")
    with page.expect_response(lambda answer: "image_format=webp" in answer.url):
        page.get_by_role("button", name="Encode and decode").click()
    expect(page.get_by_role("button", name="Encode and decode")).to_be_enabled()
    fine = saved(page)
    assert len(rough) < len(fine)
    expect(page.locator("#facts")).to_contain_text("WEBP")


def test_a_model_without_encoder_takes_no_picture(browser, tmp_path):
    """The smallest decoder there is: a picture is refused in words, before anything is sent."""
    folder = ROOT / "fixtures" / "vae" / "sd-like"
    with serving([f"--model=sd={decoder_only(folder, tmp_path / 'model')}"], tmp_path / "log") as service, opened(browser, service.url) as page:
        expect(page.locator("#try")).to_be_enabled()
        drop(page, "photograph.png", PHOTOGRAPH.read_bytes(), "image/png")
        expect(page.get_by_role("alert")).to_contain_text("photograph.png is a picture, and model sd only decodes latents")
        expect(page.get_by_role("button", name="Decode", exact=True)).to_be_disabled()


def decoder_only(folder, copy):
    """A checkpoint without its encoder."""
    copy.mkdir()
    shutil.copy(folder / "config.json", copy)
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("encoder.", "quant_conv."))}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, copy / "diffusion_pytorch_model.safetensors")
    return copy


def test_errors_are_said_as_the_server_says_them(page, served):
    try_it(page)
    page.get_by_text("JPEG", exact=True).click()
    page.get_by_label("Quality").fill("500")
    decode(page)
    query = {"shape": [1, 16, 1, 1], "dtype": "float16", "quality": 500}
    headers = {"Content-Type": "tensor/binary"}
    said = requests.post(f"{served.url}/demo", params=query, headers=headers, data=bytes(32), timeout=60).json()
    expect(page.get_by_role("alert")).to_have_text(said["error"])
    # The picture before must not be taken for the answer, and is there again to compare with.
    expect(page.locator("#result")).to_be_hidden()
    expect(page.get_by_role("img")).to_have_count(0)
    page.get_by_label("Quality").fill("50")
    decode(page)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#picture")).to_be_visible()
    page.get_by_label("Compare with").select_option(label="the picture before (PNG)")


def test_what_was_dropped_is_a_press_away(page):
    """With the model that is chosen, or with the one that takes it; and the picture before goes."""
    try_it(page)
    alert, ready = page.get_by_role("alert"), page.locator("#ready")
    drop(page, "clip.safetensors", save({"latents": torch.zeros(1, 16, 2, 4, 6)}))
    expect(alert).to_have_text(
        'clip.safetensors does not fit model demo: its tensor "latents" is [1, 16, 2, 4, 6], '
        "and demo takes [B, 16, h, w] or packed [B, tokens, 64]."
    )
    expect(page.locator("#result")).to_be_hidden()
    expect(ready).to_contain_text("Model video takes it.")
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_disabled()
    check(page, "a file for another model")
    ready.get_by_role("button", name="Decode with video").click()
    expect(page.get_by_label("The decoded video")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("video")

    drop(page, "nobody.safetensors", save({"latents": torch.zeros(1, 5, 4, 4)}))
    expect(alert).to_contain_text("No model of this server takes it.")
    expect(ready).to_be_hidden()
    expect(page.locator("#result")).to_be_hidden()

    page.get_by_role("combobox", name="Model").select_option("demo")
    drop(page, "latents.safetensors", save({"latents": torch.zeros(2, 16, 4, 6)}))
    expect(alert).to_be_hidden()
    expect(ready).to_contain_text("latents.safetensors is ready: 2 pictures of 48 × 32 pixels.")
    expect(page.get_by_text("Drop latents, or try the example")).to_be_hidden()
    check(page, "a file that is ready")
    ready.get_by_role("button", name="Decode with demo").click()
    expect(page.get_by_role("img", name="Picture 1 of 2 decoded from latents.safetensors")).to_be_visible(timeout=60_000)
    expect(ready).to_be_hidden()

    page.get_by_role("combobox", name="Model").select_option("video")
    expect(alert).to_contain_text("does not fit model video")
    drop(page, "photograph.png", PHOTOGRAPH.read_bytes())
    expect(alert).to_contain_text("photograph.png is a picture, and model video only decodes latents here")
    expect(ready.get_by_role("button", name="Encode with demo")).to_be_visible()


def test_a_server_that_is_away_and_comes_back(page):
    try_it(page)
    news, alert = page.locator("#news"), page.get_by_role("alert")
    expect(news).to_be_hidden()
    page.route("**/*", lambda route: route.abort())
    expect(news).to_contain_text("The server cannot be reached since", timeout=10_000)
    expect(page.locator("#live")).to_be_hidden()
    page.get_by_role("button", name="Decode", exact=True).click()
    expect(alert).to_contain_text("it may have been stopped")
    expect(alert).to_contain_text("press the button again")
    check(page, "without a server")
    page.unroute("**/*")
    expect(news).to_contain_text("The server is back.", timeout=10_000)
    expect(alert).to_be_hidden()
    page.get_by_role("button", name="Decode with demo").click()
    expect(page.get_by_role("img", name="The picture decoded from demo-latents.safetensors")).to_be_visible(timeout=60_000)


def test_the_address_of_a_model_opens_the_page_with_it(page, served):
    for path, chosen in [("/video", "video"), ("/demo/", "demo"), ("/", "demo")]:
        page.goto(served.url + path)
        expect(page.locator("#try")).to_be_enabled()
        expect(page.get_by_role("combobox", name="Model")).to_have_value(chosen)
    # The page works from there as from anywhere.
    page.goto(f"{served.url}/demo")
    expect(page.locator("#try")).to_be_enabled()
    try_it(page)


def test_a_video_plays(page):
    page.get_by_role("combobox", name="Model").select_option("video")
    page.get_by_label("Frames a second").fill("8")
    page.get_by_role("button", name="Try it with random latents").click()
    video = page.get_by_label("The decoded video")
    expect(video).to_be_visible(timeout=120_000)
    video.evaluate("video => video.play()")
    page.wait_for_timeout(300)
    width, height, time = video.evaluate("video => [video.videoWidth, video.videoHeight, video.currentTime]")
    assert f"{width} × {height}" in page.locator("#facts").inner_text()
    assert time > 0
    content = saved(page)
    assert content[4:8] == b"ftyp"


def test_the_work_is_seen(page):
    try_it(page)
    live = page.locator("#live")
    expect(live).to_contain_text("0 waiting")
    expect(live).not_to_contain_text("0.00 megapixels/s", timeout=10_000)


def test_a_server_with_keys_asks_for_one(browser, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with serving([f"--api-key-file={keys}"], tmp_path / "log") as service, opened(browser, service.url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        field = page.get_by_label("This server wants an API key")
        expect(field).to_be_focused()
        check(page, "the door")
        page.keyboard.type("0123456789abcdee")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not known")
        field.fill(KEY)
        page.get_by_role("button", name="Open").click()
        expect(field).to_be_hidden()
        try_it(page)
        page.get_by_role("button", name="Copy").click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert "$REMOTE_VAE_API_KEY" in copied
        for tab, run in [("curl", run_curl), ("Rust", run_rust), ("Python", run_python)]:
            page.get_by_role("tab", name=tab).click()
            code = page.locator("#code-text").inner_text()
            assert KEY not in code
            run(code, tmp_path, REMOTE_VAE_API_KEY=KEY)
            (tmp_path / "picture.png").unlink()
        assert not any(KEY in address for address in page.asked)
        # It opens the door from the address too, and does not stay there.
        page.evaluate("sessionStorage.clear()")
        page.goto(f"{service.url}/?api_key={KEY}")
        expect(page.locator("#try")).to_be_enabled()
        assert KEY not in page.url
        # The address of a model is the page, too, and asks for the key itself.
        page.evaluate("sessionStorage.clear()")
        page.goto(f"{service.url}/another")
        field.fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This server has no model another; chosen is demo.")
