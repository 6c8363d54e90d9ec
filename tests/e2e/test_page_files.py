"""The files that people drop on the page."""

import io
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import requests
import torch
from compare import pixels
from page_tab import SCREENSHOTS, check, decode, drop, saved
from PIL import Image
from place import PHOTOGRAPH
from playwright.sync_api import expect
from safetensors.torch import save, save_file


def torch_file(what, **options) -> bytes:
    content = io.BytesIO()
    torch.save(what, content, **options)
    return content.getvalue()


def sent_by(page) -> tuple[bytes, list[int]]:
    """The body and the shape of the request that the button sends."""
    with page.expect_request(lambda request: request.method == "POST") as sent:
        decode(page)
    query = parse_qsl(urlsplit(sent.value.url).query)
    return sent.value.post_data_buffer, [int(value) for key, value in query if key == "shape"]


def test_a_file_with_several_tensors_is_a_choice_and_its_bytes_are_not_touched(page, tmp_path):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 8, 6, generator=generator).bfloat16()
    # Minus zero and the smallest number that there is, which must arrive as they are.
    latents.view(torch.int16)[1, 0, 0, :2] = torch.tensor([-0x8000, 0x0001], dtype=torch.int16)
    tensors = {
        "conditioning": torch.randn(1, 77, 32, generator=generator),
        "bytes": torch.zeros(1, 16, 2, 2, dtype=torch.uint8),
        "doubles": torch.zeros(1, 16, 2, 2, dtype=torch.float64),
        "latents": latents,
        "other": torch.randn(16, 4, 4, generator=generator).half(),
    }
    save_file(tensors, tmp_path / "several.safetensors", metadata={"made by": "a test"})
    drop(page, "several.safetensors", (tmp_path / "several.safetensors").read_bytes())
    choice = page.get_by_label("Tensor", exact=True)
    expect(choice).to_contain_text("conditioning")
    options = {option.inner_text(): option for option in choice.locator("option").all()}
    assert {text.split(" · ")[0] for text in options} == tensors.keys()
    assert options["bytes · uint8 [1, 16, 2, 2] · does not fit"].get_attribute("disabled") is not None
    assert options["doubles · float64 [1, 16, 2, 2]"].get_attribute("disabled") is None
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(60), "cut short"),
        (bytes([200, 0, 0, 0, 0, 0, 0, 0]) + b"{}", "is cut off: it should have 208 bytes, and has 10 bytes"),
        (save({"latents": torch.zeros(1, 16, 2, 2)})[:-56], "is cut off: it should have 336 bytes, and has 280 bytes"),
        (bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}", "holds no tensor"),
        (bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"[]", "none of the files of latents that are known"),
        (bytes([4, 0, 0, 0, 0, 0, 0, 0]) + b"\xff\xff\xff\xff", "none of the files of latents that are known"),
        (bytes([4, 0, 0, 0, 0, 0, 0, 0]) + b"{\xff\xff\xff", "is damaged"),
        (
            (74).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[1,16,9,9],"data_offsets":[9,0]}}'.ljust(74),
            'what it says of tensor "a" makes no sense',
        ),
        (b"\x93NUMPY\x01\x00\xff\xff", "cut off"),
        ("Liebe Gr\u00fc\u00dfe,\nhere are my latents.\n".encode(), "is a text file, and holds no latents"),
        (bytes(range(1, 200)), "none of the files of latents that are known"),
    ],
)
def test_files_that_make_no_sense(page, content, words):
    drop(page, "broken.safetensors", content)
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_disabled()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_file_of_torch_with_one_tensor(page, dtype):
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    drop(page, "latents.pt", torch_file(latents))
    body, shape = sent_by(page)
    assert shape == [1, 16, 4, 6]
    assert body == latents.view(torch.uint8).numpy().tobytes()
    expect(page.locator("#facts")).to_contain_text("48 × 32")


def test_a_file_of_torch_with_all_that_people_put_into_one(page):
    """A part of a larger storage, a list, a parameter; and what is no use says why."""
    whole = torch.randn(4, 16, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    what = {
        "prompt": "a fox in the snow",
        "steps": torch.arange(3),
        "latents": whole[2:3],
        "more": [{"latents": torch.nn.Parameter(whole[0].float())}, None],
        "turned": whole.float().transpose(2, 3),
        "args": np.float64(0.5),
    }
    drop(page, "run.pth", torch_file(what))
    expect(page.get_by_label("Tensor", exact=True)).to_contain_text("turned")
    options = {option.inner_text().split(" · ")[0]: option for option in page.get_by_label("Tensor", exact=True).locator("option").all()}
    assert options.keys() == {"steps", "latents", "more.0.latents", "turned"}
    for name in ("steps", "turned"):
        assert options[name].get_attribute("disabled") is not None
    for name, expected in [("latents", whole[2:3]), ("more.0.latents", whole[0].float())]:
        page.get_by_label("Tensor", exact=True).select_option(options[name].get_attribute("value"))
        body, shape = sent_by(page)
        assert shape == [1, 16, 4, 4]
        assert body == expected.contiguous().numpy().tobytes()


def test_a_pickle_is_not_run(page):
    """What a file would call is passed over, and the tensors beside it are there."""

    class Calls:
        def __reduce__(self):
            return print, ("this was run",)

    drop(page, "calls.pt", torch_file({"calls": Calls(), "latents": torch.zeros(1, 16, 2, 2)}))
    body, _ = sent_by(page)
    assert body == bytes(4 * 16 * 4)


def test_files_of_several_numpy_arrays(page):
    latents = np.random.default_rng(0).standard_normal((16, 4, 4)).astype(np.float32)
    content = io.BytesIO()
    np.savez(content, latents=latents, size=np.array([32, 32]))
    drop(page, "cache.npz", content.getvalue())
    body, _ = sent_by(page)
    assert body == latents.tobytes()


def test_compressed_numpy_arrays(page):
    generator = np.random.default_rng(0)
    # More than one part of the stream that unpacks it.
    latents = (generator.standard_normal((1, 16, 96, 96)) // 1).astype(np.float32)
    content = io.BytesIO()
    np.savez_compressed(content, latents=latents, mask=np.zeros((1, 1, 96, 96), bool))
    drop(page, "cache.npz", content.getvalue())
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Decode with demo").click()
    assert sent.value.post_data_buffer == latents.tobytes()
    page.get_by_role("button", name="Cancel").click()
    # The checksum in the list of contents is another one; an entry that would not end is never unpacked.
    whole = content.getvalue()
    entry = whole.index(b"PK\x01\x02")
    for place, value, words in [(16, b"\0\0\0\0", "it is damaged"), (24, b"\xfe\xff\xff\xff", "unpacked it would have 4,294,967,294 bytes")]:
        wrong = whole[: entry + place] + value + whole[entry + place + 4 :]
        drop(page, "wrong.npz", wrong)
        expect(page.get_by_role("alert")).to_contain_text(f'wrong.npz, tensor "latents", cannot be decoded: {words}')


def test_types_have_the_names_that_people_know(page):
    for values, words in [
        (np.zeros((1, 16, 2, 2), np.int32), "its values are int32; save"),
        (np.zeros((1, 16, 2, 2), ">f4"), "its values are float32, but big-endian; save"),
        (np.zeros((1, 16, 2, 2), [("x", "<f4")]), "its values are records; save"),
    ]:
        content = io.BytesIO()
        np.save(content, values)
        drop(page, "latents.npy", content.getvalue())
        expect(page.get_by_role("alert")).to_contain_text(f"latents.npy cannot be decoded: {words}")
    drop(page, "latents.safetensors", save({"latents": torch.zeros(1, 16, 2, 2, dtype=torch.int64)}))
    expect(page.get_by_role("alert")).to_contain_text("its values are int64; save them as float16, bfloat16, float32 or float64")


def test_several_files_are_a_choice(page):
    files = [(f"{name}.safetensors", save({"latents": torch.zeros(1, 16, 2, 2 + index)})) for index, name in enumerate("ab")]
    page.get_by_label("Drop a file here").set_input_files(
        [{"name": name, "mimeType": "", "buffer": content} for name, content in files]
    )
    expect(page.locator("#ready")).to_contain_text("a.safetensors is ready: 16 × 16 pixels")
    page.get_by_label("File", exact=True).select_option(label="b.safetensors")
    expect(page.locator("#ready")).to_contain_text("b.safetensors is ready: 24 × 16 pixels")
    assert sent_by(page)[1] == [1, 16, 2, 3]


def test_a_folder_is_looked_into(page, tmp_path):
    """As the caches of ai-toolkit lie beside pictures: their files do not say by themselves what they are."""
    cache = tmp_path / "dataset" / "_latent_cache"
    cache.mkdir(parents=True)
    (cache.parent / "notes.txt").write_text("of no use")
    save_file({"latent": torch.zeros(16, 2, 3)}, cache / "p.safetensors")
    drag = {"items": [], "files": [str(cache.parent)], "dragOperationsMask": 1}
    box = page.locator("#drop").bounding_box()
    devtools = page.context.new_cdp_session(page)
    for kind in ["dragEnter", "dragOver", "drop"]:
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": drag})
    expect(page.locator("#file-name")).to_have_text("dataset/_latent_cache/p.safetensors")
    expect(page.locator("#input-facts")).to_contain_text("ai-toolkit has scaled them")
    assert sent_by(page)[1] == [1, 16, 2, 3]


def test_caches_of_trainers_have_no_batch_axis(page):
    """16 frames of one clip of musubi-tuner's, not 16 pictures: an image model does not take it."""
    clip = {"latents_16x2x2_float32": torch.zeros(16, 16, 2, 2)}
    drop(page, "p_wan.safetensors", save(clip, {"architecture": "wan"}))
    expect(page.get_by_role("alert")).to_contain_text("p_wan.safetensors does not fit model demo")
    drop(page, "p.safetensors", save(clip))
    expect(page.locator("#ready")).to_contain_text("16 pictures of 16 × 16 pixels")


def test_a_batch_shows_all_its_pictures(page, served):
    latents = torch.randn(3, 16, 8, 12, generator=torch.Generator().manual_seed(0)).half()
    drop(page, "batch.pt", torch_file({"latents": latents}))
    page.get_by_role("button", name="Decode", exact=True).click()
    pictures = page.get_by_role("list", name="Pictures of the batch").get_by_role("button")
    expect(pictures).to_have_count(3, timeout=60_000)
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_enabled()
    model = requests.get(f"{served.url}/models", timeout=10).json()["models"][0]
    query = {"dtype": "float16", "image_format": "png", "scaling_factor": model["scaling_factor"], "shift_factor": model["shift_factor"]}
    for index, item in enumerate(latents):
        pictures.nth(index).click()
        expect(pictures.nth(index)).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("img", name=f"Picture {index + 1} of 3 decoded from batch.pt")).to_be_visible()
        expected = requests.post(
            f"{served.url}/demo",
            params=query | {"shape": [1, *item.shape]},
            headers={"Content-Type": "tensor/binary"},
            data=item.numpy().tobytes(),
            timeout=60,
        ).content
        assert saved(page) == expected
        # The code is that of the picture on the screen.
        page.get_by_role("tab", name="Python").click()
        assert f"[{index}:{index + 1}]" in page.locator("#code-text").inner_text()
    check(page, "a batch")
    page.screenshot(path=SCREENSHOTS / "batch.png", full_page=True)
    page.get_by_label("Of the batch, number").fill("2")
    body, shape = sent_by(page)
    assert (body, shape) == (latents[1].numpy().tobytes(), [1, 16, 8, 12])
    expect(pictures).to_have_count(0)


def test_a_batch_that_fails_midway_keeps_what_there_is(page):
    drop(page, "batch.pt", torch_file(torch.zeros(3, 16, 2, 2)))
    answered = []

    def refuse_the_second(route):
        answered.append(route.request.url)
        if len(answered) == 2:
            route.fulfill(status=429, json={"error": "the queue is full"})
        else:
            route.continue_()

    page.route("**/demo?*", refuse_the_second)
    page.get_by_role("button", name="Decode", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("the queue is full")
    expect(page.get_by_role("img", name="Picture 1 of 3")).to_be_visible()
    assert len(answered) == 2


def picture(kind: str, **options) -> bytes:
    content = io.BytesIO()
    Image.open(PHOTOGRAPH).convert("RGB").resize((64, 48)).save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "media_type", "content"),
    [
        ("photograph", "", picture("PNG")),
        ("latents.safetensors", "application/octet-stream", picture("JPEG")),
        ("photograph.gif", "image/gif", picture("WEBP")),
    ],
)
def test_a_picture_is_known_by_its_first_bytes(page, name, media_type, content):
    """Neither its name nor the type that the system gives it says anything."""
    drop(page, name, content, media_type)
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Encode and decode").click()
    kind = Image.open(io.BytesIO(content)).get_format_mimetype()
    assert sent.value.headers["content-type"] == kind
    expect(page.get_by_role("img", name=f"{name}, encoded and decoded again")).to_be_visible(timeout=60_000)
    assert pixels(saved(page), "PNG").shape == (48, 64, 3)


def test_latents_are_known_by_their_first_bytes(page, tmp_path):
    latents = torch.zeros(1, 16, 2, 2)
    save_file({"latents": latents}, tmp_path / "latents")
    drop(page, "latents.png", (tmp_path / "latents").read_bytes(), "image/png")
    assert sent_by(page)[1] == [1, 16, 2, 2]


# Their first bytes are those of the programs that write them, where Pillow or torch is none of these.
OTHERS = {
    "a GIF": picture("GIF"),
    "a BMP": picture("BMP"),
    "a TIFF": picture("TIFF"),
    "an AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
    "a HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a video": b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
    "a web page": b"<!DOCTYPE html>\n<title>Access to this model is restricted</title>",
    "a GGUF": b"GGUF\x03\0\0\0" + bytes(120),
    "a bare pickle": torch_file(torch.zeros(1, 16, 2, 2), _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_file_is_called_what_it_is(page, kind):
    drop(page, "latents.pt", OTHERS[kind], "image/png")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"latents.pt is {kind}")
    if kind == "a bare pickle":
        expect(alert).to_contain_text("safetensors.torch.save_file(")
    expect(page.get_by_role("button", name="Decode", exact=True)).to_be_disabled()


def test_a_header_of_safetensors_may_be_as_long_as_any_number(page, tmp_path):
    """640 bytes of header begin as a pickle of the second protocol does."""
    header = b'{"x":{"dtype":"F16","shape":[1,16,2,2],"data_offsets":[0,128]}}'.ljust(0x280)
    drop(page, "latents.safetensors", (0x280).to_bytes(8, "little") + header + bytes(128))
    assert sent_by(page)[1] == [1, 16, 2, 2]


def test_latents_of_comfyui_are_scaled_as_comfyui_does(page):
    """`LoadLatent` takes latents as they are, or without the marker times 1 / 0.18215, and its VAEs do not scale."""
    latents = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 32, 32)
    marker = {"latent_format_version_0": torch.tensor([])}
    for more, scaling, words in [
        (marker, {}, "ComfyUI saves latents as the decoder takes them"),
        ({}, {"scaling_factor": "0.18215"}, "divided by 0.18215"),
    ]:
        drop(page, "ComfyUI_00001_.latent", save({"a_mask": mask, "latent_tensor": latents, **more}))
        expect(page.locator("#input-facts")).to_contain_text(words)
        with page.expect_request(lambda request: request.method == "POST") as sent:
            decode(page)
        assert sent.value.post_data_buffer == latents.numpy().tobytes()
        query = dict(parse_qsl(urlsplit(sent.value.url).query))
        assert {key: query[key] for key in query if key in ("scaling_factor", "shift_factor", "do_scaling")} == scaling
    # A file of nobody in particular is scaled by the model again.
    drop(page, "latents.safetensors", save({"latents": latents}))
    expect(page.get_by_label("Scale the latents")).to_have_value("model")
