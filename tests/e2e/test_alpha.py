"""Pictures with alpha: what diffusers' client, the command line and the page make of a model of four channels, next to
diffusers itself."""

import io

import numpy as np
import pytest
import requests
import torch
from compare import assert_bytes, assert_floats, assert_latents, assert_same_picture, round8
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from models import ALPHA
from page_tab import decode, drop, opened, saved
from PIL import Image
from place import PHOTOGRAPH
from playwright.sync_api import expect
from safetensors.torch import save, save_file
from service import serving
from test_command_line import run


@pytest.fixture(scope="module")
def alpha(tmp_path_factory):
    with serving([f"--model=alpha={ALPHA.folder}"], tmp_path_factory.mktemp("alpha") / "log") as service:
        yield service


@pytest.fixture(scope="module", name="latents")
def some_latents():
    return ALPHA.latents(1, 6, 9)


@pytest.fixture(scope="module")
def reference(latents):
    """What diffusers decodes them to, [1, 4, 24, 36]."""
    decoded = ALPHA.decoded(ALPHA.unscaled(latents))
    assert (round8(decoded)[..., 3] < 255).mean() > 0.5, "most of it is opaque"
    return decoded


def photograph(width: int, height: int) -> Image.Image:
    """With alpha from 0 to 255, the upper left opaque and the lower right transparent in part."""
    picture = Image.open(PHOTOGRAPH).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    picture.putalpha(Image.linear_gradient("L").rotate(180).resize((width, height)))
    return picture


def decoded(alpha, latents, **options):
    return remote_decode(f"{alpha.url}/", latents, scaling_factor=ALPHA.scaling_factor, **options)


def file(alpha, latents, **query) -> requests.Response:
    query = {"shape": list(latents.shape), "dtype": "float16", "scaling_factor": ALPHA.scaling_factor} | query
    headers = {"Content-Type": "tensor/binary"}
    return requests.post(alpha.url, params=query, headers=headers, data=latents.numpy().tobytes(), timeout=60)


def test_diffusers_client_gets_rgba(alpha, latents, reference):
    picture = decoded(alpha, latents, output_type="pt", return_type="pil", partial_postprocess=True)
    assert (picture.mode, picture.size) == ("RGBA", (36, 24))
    assert_bytes(np.asarray(picture)[None], reference)
    processor = VaeImageProcessor()
    # The processor works with the values in their own type, which is float16.
    unit = (reference / 2 + 0.5).clamp(0, 1).half()
    for output_type, [expected] in [
        ("pil", processor.postprocess(unit, output_type="pil", do_denormalize=[False])),
        ("pt", processor.postprocess(reference.half(), output_type="pil")),
    ]:
        made = decoded(alpha, latents, processor=processor, output_type=output_type, return_type="pil")
        made = made[0] if isinstance(made, list) else made
        assert made.mode == "RGBA"
        assert_same_picture(np.asarray(made)[None], np.asarray(expected)[None])
    assert_floats(decoded(alpha, latents, output_type="pt", return_type="pt"), reference)
    # Of a file it makes RGB by itself.
    png = decoded(alpha, latents, image_format="png")
    assert np.array_equal(np.asarray(png), np.asarray(picture.convert("RGB")))


def test_files_have_alpha(alpha, latents, reference):
    png = file(alpha, latents, image_format="png")
    assert png.headers["Content-Type"] == "image/png"
    picture = Image.open(io.BytesIO(png.content))
    assert picture.mode == "RGBA"
    assert_bytes(np.asarray(picture)[None], reference)

    webp = file(alpha, latents, image_format="webp")
    assert webp.headers["Content-Type"] == "image/webp"
    lossy = Image.open(io.BytesIO(webp.content))
    assert lossy.mode == "RGBA"
    assert np.array_equal(np.asarray(lossy)[..., 3], np.asarray(picture)[..., 3])
    # As large as Pillow's file of the same picture.
    content = io.BytesIO()
    picture.save(content, "WEBP")
    assert 0.99 < len(webp.content) / len(content.getvalue()) < 1.01

    refused = file(alpha, latents)
    assert refused.status_code == 422
    assert "image_format=png or webp" in refused.json()["error"]
    with pytest.raises(RuntimeError, match="image_format=png or webp"):
        decoded(alpha, latents)


@pytest.mark.parametrize("size", [(48, 40), (51, 43)], ids=str)
def test_diffusers_client_encodes_rgba(alpha, size):
    """The sides of the second one are no whole latents, so that it is resized, as diffusers does it before it encodes."""
    picture = photograph(*size)
    processor = VaeImageProcessor(vae_scale_factor=4)
    url = f"{alpha.url}/?sample_mode=argmax"
    for image in [picture, picture.convert("RGB")]:
        expected = ALPHA.posterior(processor.preprocess(image.convert("RGBA"))).mode()
        assert_latents(remote_encode(url, image), expected)
        scaled = remote_encode(url, image, scaling_factor=ALPHA.scaling_factor)
        assert_latents(scaled, ALPHA.scaled(expected))


def test_tensors_keep_or_gain_alpha(alpha):
    processor = VaeImageProcessor(vae_scale_factor=4)
    prepared = processor.preprocess(photograph(96, 80))
    url = f"{alpha.url}/?sample_mode=argmax"
    # Contiguous and held here: of others diffusers sends memory that is freed.
    four = prepared.contiguous()
    assert_latents(remote_encode(url, four), ALPHA.posterior(four).mode())
    three = prepared[:, :3].contiguous()
    opaque = torch.cat([three, torch.ones(1, 1, 80, 96)], 1)
    assert_latents(remote_encode(url, three), ALPHA.posterior(opaque).mode())


def test_the_command_line(latents, reference, tmp_path):
    model = ["--model", ALPHA.folder]
    save_file({"latents": latents}, tmp_path / "in.safetensors")
    run("decode", tmp_path / "in.safetensors", "-o", tmp_path / "out.png", *model)
    picture = Image.open(tmp_path / "out.png")
    assert picture.mode == "RGBA"
    assert_bytes(np.asarray(picture)[None], reference)
    told = run("decode", tmp_path / "in.safetensors", "-o", tmp_path / "out.jpg", *model, status=1).stderr
    assert "alpha" in told and "png or webp" in told

    photograph(96, 80).save(tmp_path / "photo.png")
    arguments = ["--sample-mode", "argmax", "--out-dtype", "float32", "--no-scaling"]
    run("encode", tmp_path / "photo.png", "-o", tmp_path / "latents.npy", *arguments, *model)
    expected = ALPHA.posterior(VaeImageProcessor(vae_scale_factor=4).preprocess(photograph(96, 80))).mode()
    assert_latents(torch.from_numpy(np.load(tmp_path / "latents.npy")), expected)

    run("roundtrip", tmp_path / "photo.png", "-o", tmp_path / "sheet.png", *model)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (80, 3 * 96 + 16, 4)
    original, back, difference = sheet[:, :96], sheet[:, 104:200], sheet[:, 208:]
    assert np.array_equal(original, np.asarray(photograph(96, 80)))
    assert_same_picture(back, round8(ALPHA.decoded(expected))[0])
    assert (difference[..., 3] == 255).all()
    distance = np.abs(original.astype(int) - back.astype(int)) * 8
    expected_difference = np.minimum(np.minimum(distance[..., :3], 255) + np.minimum(distance[..., 3:], 255), 255)
    assert np.array_equal(difference[..., :3], expected_difference)


def test_the_page_shows_what_is_transparent(browser, alpha, latents, reference):
    with opened(browser, alpha.url) as page:
        drop(page, "some.safetensors", save({"latents": latents}))
        expect(page.get_by_text("JPEG", exact=True)).to_be_hidden()
        decode(page)
        picture = Image.open(io.BytesIO(saved(page)))
        assert picture.mode == "RGBA"
        assert_bytes(np.asarray(picture)[None], reference)
        board = page.locator("#picture").evaluate("(picture) => getComputedStyle(picture).backgroundImage")
        assert "conic-gradient" in board
        # The request in Python gets the same picture, alpha and all.
        page.get_by_role("tab", name="Python").click()
        assert "partial_postprocess=True" in page.locator("#code-text").text_content()
