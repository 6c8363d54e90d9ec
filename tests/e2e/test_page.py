"""The page, as people use it: real clicks and keys in a real browser."""

import contextlib
import io
import re
import shutil
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import requests
import torch
from axe_playwright_python.sync_playwright import Axe
from compare import pixels, psnr
from page_code import run_curl, run_python, run_rust
from PIL import Image
from place import CACHE, PHOTOGRAPH, PHOTOGRAPH_LATENTS, PHOTOGRAPH_PSNR, ROOT
from playwright.sync_api import expect
from safetensors.torch import load_file, save_file
from service import serving

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
# For whoever wants to look at what the tests have seen.
SCREENSHOTS = CACHE / "screenshots"
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The demonstration model, which has an example, and a small video model, which has none."""
    arguments = ["--model=demo=demo", f"--model=video={ROOT / 'fixtures' / 'vae' / 'video'}"]
    with serving(arguments, tmp_path_factory.mktemp("page") / "log") as service:
        yield service


@contextlib.contextmanager
def opened(browser, url, **settings):
    """A tab with the page. Whatever is done in it, nobody but this server may be asked, and no script may fail."""
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


@pytest.fixture
def page(browser, served):
    with opened(browser, served.url) as page:
        expect(page.locator("#try")).to_be_enabled()
        yield page


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


def test_one_click_shows_the_photograph(page):
    try_it(page)
    content = saved(page)
    assert psnr(pixels(content, "PNG"), pixels(PHOTOGRAPH.read_bytes(), "PNG")) >= PHOTOGRAPH_PSNR
    facts = page.locator("#facts").inner_text()
    assert "512 × 512" in facts
    assert re.search(r"\d ms in the model", facts)
    size = f"{len(content) / 1000:.3g} kB, PNG"
    assert size in facts


def test_a_file_with_several_tensors_is_a_choice_and_its_bytes_are_not_touched(page, tmp_path):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 8, 6, generator=generator).bfloat16()
    # A quiet and an unusual bit pattern, which must arrive as they are.
    latents.view(torch.int16)[1, 0, 0, :2] = torch.tensor([0x7FC1, 0x0001], dtype=torch.int16)
    tensors = {
        "conditioning": torch.randn(1, 77, 32, generator=generator),
        "doubles": torch.zeros(1, 16, 2, 2, dtype=torch.float64),
        "latents": latents,
        "other": torch.randn(16, 4, 4, generator=generator).half(),
    }
    save_file(tensors, tmp_path / "several.safetensors", metadata={"made by": "a test"})
    drop(page, "several.safetensors", (tmp_path / "several.safetensors").read_bytes())
    choice = page.get_by_label("Tensor", exact=True)
    options = {option.inner_text(): option for option in choice.locator("option").all()}
    assert {text.split(" · ")[0] for text in options} == tensors.keys()
    assert options["doubles · F64 [1, 16, 2, 2] · does not fit"].get_attribute("disabled") is not None
    assert any(text.startswith("conditioning") and "does not fit" in text for text in options)
    chosen = choice.locator("option:checked")

    page.get_by_label("Of the batch, number").fill("2")
    for name, shape, body in [
        ("latents", [1, 16, 8, 6], latents[1].view(torch.int16).numpy().tobytes()),
        ("other", [1, 16, 4, 4], tensors["other"].numpy().tobytes()),
    ]:
        if name == "other":
            choice.select_option(label="other · float16 [16, 4, 4]")
        assert chosen.inner_text().startswith(name)
        with page.expect_request(lambda request: request.method == "POST") as sent:
            page.get_by_role("button", name="Decode", exact=True).click()
        assert sent.value.post_data_buffer == body
        query = parse_qsl(urlsplit(sent.value.url).query)
        assert [int(value) for key, value in query if key == "shape"] == shape
        expect(page.locator("#facts")).to_contain_text(f"{shape[3] * 8} × {shape[2] * 8}")
        expect(page.get_by_role("button", name="Decode", exact=True)).to_be_enabled()


def test_numpy_files(page):
    latents = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32)
    content = io.BytesIO()
    np.save(content, latents)
    page.get_by_label("Drop a file here").set_input_files(
        {"name": "latents.npy", "mimeType": "application/octet-stream", "buffer": content.getvalue()}
    )
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Decode", exact=True).click()
    assert sent.value.post_data_buffer == latents.tobytes()
    expect(page.locator("#facts")).to_contain_text("32 × 32")


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
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
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


def test_packed_latents_need_a_size(page, tmp_path):
    latents = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(0)).half()
    save_file({"packed": latents}, tmp_path / "packed.safetensors")
    drop(page, "packed.safetensors", (tmp_path / "packed.safetensors").read_bytes())
    decode(page)
    expect(page.get_by_role("alert")).to_contain_text("height")
    page.get_by_label("Width in pixels").fill("64")
    page.get_by_label("Height in pixels").fill("32")
    decode(page)
    expect(page.locator("#facts")).to_contain_text("64 × 32")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_errors_are_said_as_the_server_says_them(page, served):
    try_it(page)
    page.get_by_text("JPEG", exact=True).click()
    page.get_by_label("Quality").fill("500")
    decode(page)
    query = {"shape": [1, 16, 1, 1], "dtype": "float16", "quality": 500}
    headers = {"Content-Type": "tensor/binary"}
    said = requests.post(f"{served.url}/demo", params=query, headers=headers, data=bytes(32), timeout=60).json()
    expect(page.get_by_role("alert")).to_have_text(said["error"])
    page.get_by_label("Quality").fill("50")
    decode(page)
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has only 0 bytes"),
        (b"PK\x03\x04" + bytes(60), "longer than the file"),
        (bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}", "holds no tensor"),
        (bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"[]", "no object"),
        (bytes([4, 0, 0, 0, 0, 0, 0, 0]) + b"\xff\xff\xff\xff", "not JSON"),
        (
            (74).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[1,16,9,9],"data_offsets":[0,9000000]}}'.ljust(74),
            'tensor "a" is wrong',
        ),
        (b"\x93NUMPY\x01\x00\xff\xff", "cut short"),
    ],
)
def test_files_that_make_no_sense(page, content, words):
    drop(page, "broken.safetensors", content)
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_disabled()


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


@pytest.mark.parametrize("source", ["example", "numpy", "batch", "webp"])
def test_the_code_does_what_the_page_did(page, tmp_path, source):
    """Each of the three, copied from the page and run, writes the very file that the page has got."""
    generator = torch.Generator().manual_seed(0)
    if source == "example":
        try_it(page)
        page.get_by_text("JPEG", exact=True).click()
        page.get_by_label("Quality").fill("40")
        # What the code for Python and Rust reads, the command fetches.
    elif source == "webp":
        try_it(page)
        page.get_by_text("WebP", exact=True).click()
        page.get_by_label("Quality").fill("40")
    elif source == "numpy":
        np.save(tmp_path / "it's latents.npy", torch.randn(16, 4, 4, generator=generator).numpy())
        drop(page, "it's latents.npy", (tmp_path / "it's latents.npy").read_bytes())
    else:
        save_file({'a "name"': torch.randn(3, 16, 4, 4, generator=generator).bfloat16()}, tmp_path / "batch.safetensors")
        drop(page, "batch.safetensors", (tmp_path / "batch.safetensors").read_bytes())
        page.get_by_label("Of the batch, number").fill("3")
        page.get_by_text("More options").click()
        page.get_by_label("Scale the latents").select_option("none")
        page.get_by_label("In tiles").check()
    decode(page)
    shown = saved(page)
    name = {"example": "picture.jpg", "webp": "picture.webp"}.get(source, "picture.png")
    for tab, run in [("curl", run_curl), ("Rust", run_rust), ("Python", run_python)]:
        page.get_by_role("tab", name=tab).click()
        run(page.locator("#code-text").inner_text(), tmp_path)
        file = tmp_path / name
        if tab == "Python":
            # Its client decodes the file and writes it again.
            kind = {"example": "JPEG", "webp": "WEBP"}.get(source, "PNG")
            assert psnr(pixels(file.read_bytes(), kind), pixels(shown, kind)) > 35
        else:
            assert file.read_bytes() == shown, tab
        file.unlink()


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


def check(page, name: str) -> None:
    """No barrier that axe can find."""
    results = Axe().run(page)
    assert results.violations_count == 0, f"{name}: {results.generate_report()}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_everybody_can_use_it(browser, served, theme, device):
    settings = (PHONE if device == "phone" else DESKTOP) | {"color_scheme": theme}
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
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
        page.goto(f"{served.url}/docs")
        expect(page.locator("#content")).not_to_have_attribute("aria-busy", "true")
        page.locator("summary").first.click()
        check(page, "the API")
        page.screenshot(path=SCREENSHOTS / f"{device}-{theme}-docs.png")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0


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
