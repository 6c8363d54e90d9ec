"""diffusers' `remote_encode` against the server, next to diffusers itself, at the real configurations."""

import base64
import io
import json

import numpy as np
import pytest
import requests
import torch
from compare import assert_latents, assert_standard_normal, pixels, psnr
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import load_image
from diffusers.utils.remote_utils import remote_decode, remote_encode
from models import FLUX, REAL, SD_V1
from PIL import Image
from place import PHOTOGRAPH, PHOTOGRAPH_PSNR

PROCESSOR = VaeImageProcessor(vae_scale_factor=8)

each_model = pytest.mark.parametrize("model", REAL, ids=lambda model: model.name)


def photograph(width: int, height: int) -> Image.Image:
    return Image.open(PHOTOGRAPH).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def expected_mode(model, prepared: torch.Tensor) -> torch.Tensor:
    """diffusers' `latent_dist.mode()` of preprocessed pixels, scaled as a pipeline does it."""
    return model.scaled(model.posterior(prepared).mode())


def encode(server, model, image, query="sample_mode=argmax", **options):
    """The client's call as its documentation shows it; what it has no options for is in the URL."""
    options = {"scaling_factor": model.scaling_factor, "shift_factor": model.shift_factor} | options
    return remote_encode(f"{server.url}/{model.name}?{query}", image, **options)


def latents_of(answer: requests.Response) -> torch.Tensor:
    assert answer.status_code == 200, answer.text
    dtype = {"float16": torch.float16, "float32": torch.float32}[answer.headers["dtype"]]
    return torch.frombuffer(bytearray(answer.content), dtype=dtype).reshape(json.loads(answer.headers["shape"]))


@each_model
@pytest.mark.parametrize("size", [(248, 136), (251, 139)], ids=str)
def test_a_picture(server, model, size):
    image = photograph(*size)
    got = encode(server, model, image)
    assert got.dtype == torch.float16
    assert list(got.shape) == [1, model.latent_channels, 17, 31]
    assert_latents(got, expected_mode(model, PROCESSOR.preprocess(image)))


def test_512_by_512(server):
    image = photograph(512, 512)
    assert_latents(encode(server, SD_V1, image), expected_mode(SD_V1, PROCESSOR.preprocess(image)))


@each_model
def test_tensors(server, model):
    """In [0, 1] and in [-1, 1], in every type, with a batch and without, of whole latents and of odd sizes.

    All are contiguous: of others the client (0.42.1) makes a copy that it has let go of when it is sent.
    """
    unit = torch.stack([torch.from_numpy(np.array(photograph(96, 80))).permute(2, 0, 1) / 255 for _ in range(2)])
    unit[1] = unit[1].flip(-1)
    reference = expected_mode(model, PROCESSOR.preprocess(unit))
    assert_latents(encode(server, model, unit), reference)
    assert_latents(encode(server, model, unit * 2 - 1), reference)
    assert_latents(encode(server, model, unit[0]), reference[:1])
    for dtype in (torch.float16, torch.bfloat16):
        rounded = (unit[:1] * 2 - 1).to(dtype)
        assert_latents(encode(server, model, rounded), expected_mode(model, rounded.float()))

    odd = unit[:1, :, :75, :91].contiguous()
    assert_latents(encode(server, model, odd), expected_mode(model, PROCESSOR.preprocess(odd)))
    assert_latents(encode(server, model, unit[:1].mul(255).round().byte()), reference[:1])


@each_model
def test_scaling(server, model):
    image = photograph(72, 64)
    mode = model.posterior(PROCESSOR.preprocess(image)).mode()
    none = {"scaling_factor": None, "shift_factor": None}
    assert_latents(encode(server, model, image, **none), mode)
    assert_latents(encode(server, model, image, "sample_mode=argmax&do_scaling=True", **none), model.scaled(mode))
    got = encode(server, model, image, scaling_factor=2.0, shift_factor=-0.5)
    assert_latents(got, (mode + 0.5) * 2)


@pytest.mark.parametrize("model", [*REAL, None], ids=lambda model: model.name if model else "demo")
def test_samples_have_the_mean_and_the_variance(server, demo, model):
    """As many samples as there are seeds, each value measured in its own deviations from its own mean."""
    model = model or demo
    image = photograph(64, 64)
    posterior = model.posterior(PROCESSOR.preprocess(image))
    none = {"scaling_factor": None, "shift_factor": None}
    samples = [encode(server, model, image, f"seed={seed}&out_dtype=float32", **none) for seed in range(64)]
    noise = (torch.cat(samples) - posterior.mean) / posterior.std
    assert_standard_normal(noise)
    # These bounds see a deviation that is a tenth off, a mean that is, noise that draws share, and places that share one
    # deviation instead of having their own.
    shared = (torch.cat(samples) - posterior.mean) / posterior.std.mean()
    for wrong in (noise * 1.1, noise / 1.1, noise + 0.1, (noise + noise.roll(1, 0)) / 2**0.5, shared):
        with pytest.raises(AssertionError):
            assert_standard_normal(wrong)


@each_model
def test_a_seed_repeats(server, model):
    image = photograph(64, 64)
    first, again, other = (encode(server, model, image, f"seed={seed}") for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Without one, it is told.
    file = io.BytesIO()
    image.save(file, "PNG")
    url = f"{server.url}/{model.name}"
    answer = requests.post(url, data=file.getvalue(), timeout=60)
    same = requests.post(f"{url}?seed={answer.headers['seed']}", data=file.getvalue(), timeout=60)
    assert torch.equal(latents_of(answer), latents_of(same))


FILES = {
    "jpeg": ("image/jpeg", "JPEG", {"quality": 90}),
    "jpeg on its side": ("image/jpeg", "JPEG", {"quality": 90, "exif": 6}),
    "webp": ("image/webp", "WEBP", {"quality": 90}),
    "png": ("image/png", "PNG", {}),
    "no type": (None, "JPEG", {"quality": 60}),
    "any type": ("application/octet-stream", "WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("name", FILES)
def test_bare_files(server, demo, tmp_path, name):
    """Files as they are, next to what `load_image` and the image processor make of them."""
    content_type, kind, options = FILES[name]
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = options | {"exif": exif}
    file = tmp_path / f"picture.{kind.lower()}"
    photograph(75, 59).save(file, kind, **options)
    headers = {"Content-Type": content_type} if content_type else {}
    query = {"sample_mode": "argmax", "do_scaling": True}
    answer = requests.post(f"{server.url}/demo", params=query, headers=headers, data=file.read_bytes(), timeout=60)
    prepared = PROCESSOR.preprocess(load_image(str(file)))
    assert_latents(latents_of(answer), expected_mode(demo, prepared))


def test_grey_and_transparent_pictures(server, demo):
    for mode in ("L", "P", "1"):
        image = photograph(64, 48).convert(mode)
        expected = expected_mode(demo, PROCESSOR.preprocess(image.convert("RGB")))
        assert_latents(encode(server, demo, image), expected)
    clear = photograph(64, 48)
    clear.putalpha(100)
    expected = expected_mode(demo, PROCESSOR.preprocess(clear.convert("RGB")))
    assert_latents(encode(server, demo, clear), expected)


def test_base64_and_the_first_generation(server, demo):
    image = photograph(64, 48)
    file = io.BytesIO()
    image.save(file, "PNG")
    prepared = PROCESSOR.preprocess(image)
    expected = demo.posterior(prepared).mode()
    text = base64.b64encode(prepared.numpy().tobytes()).decode()

    query = {"task": "encode", "sample_mode": "argmax", "dtype": "float32", "shape": list(prepared.shape)}
    headers = {"Content-Type": "tensor/base64", "Accept": "tensor/base64"}
    answer = requests.post(f"{server.url}/demo", params=query, headers=headers, json={"inputs": text}, timeout=60)
    body = answer.json()
    assert body["parameters"] == {"shape": [1, demo.latent_channels, 6, 8], "dtype": "float16"}
    got = torch.frombuffer(bytearray(base64.b64decode(body["inputs"])), dtype=torch.float16)
    assert_latents(got.reshape(body["parameters"]["shape"]), expected)

    # The first generation gets latents as pipelines have them.
    parameters = {"sample_mode": "argmax", "shape": list(prepared.shape), "dtype": "float32"}
    answer = requests.post(f"{server.url}/demo", json={"inputs": text, "parameters": parameters}, timeout=60)
    assert_latents(latents_of(answer), demo.scaled(expected))
    picture = {"inputs": base64.b64encode(file.getvalue()).decode(), "parameters": {"sample_mode": "argmax"}}
    answer = requests.post(f"{server.url}/demo/predict", json=picture, timeout=60)
    assert_latents(latents_of(answer), demo.scaled(expected))


def test_one_url_for_both_tasks(server, demo):
    """diffusers' documentation calls `remote_encode` with the URL that decodes; what went in comes out again."""
    url = f"{server.url}/demo"
    image = Image.open(PHOTOGRAPH).convert("RGB")
    options = {"scaling_factor": demo.scaling_factor, "shift_factor": demo.shift_factor}
    latents = remote_encode(url, image, **options)
    png = remote_decode(url, latents, image_format="png", **options)
    assert psnr(np.asarray(png), np.asarray(image)) >= PHOTOGRAPH_PSNR - 0.5
    webp = requests.post(
        url,
        params={"shape": list(latents.shape), "dtype": "float16", "image_format": "webp", **options},
        headers={"Content-Type": "tensor/binary"},
        data=latents.numpy().tobytes(),
        timeout=60,
    )
    assert webp.headers["Content-Type"] == "image/webp"
    assert psnr(pixels(webp.content, "WEBP"), np.asarray(png)) > 33
    # As large as Pillow's file of the same picture.
    file = io.BytesIO()
    png.save(file, "WEBP")
    assert 0.99 < len(webp.content) / len(file.getvalue()) < 1.01


def test_an_rgba_tensor(server, demo):
    """What `remote_encode` sends for a tensor of four channels has no content type: it may be RGBA or latents."""
    rgba = Image.open(PHOTOGRAPH).convert("RGB").resize((96, 80))
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    # Contiguous and held here: of others diffusers sends memory that is freed.
    tensor = (torch.from_numpy(np.asarray(rgba)).permute(2, 0, 1)[None].float() / 255).contiguous()
    # The demonstration model has latents of 16 channels, so that this is a picture only: Pillow's RGB of it.
    url = f"{server.url}/demo?sample_mode=argmax"
    rgb = (torch.from_numpy(np.asarray(rgba.convert("RGB"))).permute(2, 0, 1)[None].float() / 255).contiguous()
    assert torch.equal(remote_encode(url, tensor), remote_encode(url, rgb))
    with pytest.raises(RuntimeError, match="latents of 768 x 640 pixels.*RGBA picture of 96 x 80 pixels"):
        remote_encode(f"{server.url}/sd-v1", tensor)
    told = remote_encode(f"{server.url}/sd-v1?task=encode&sample_mode=argmax", tensor)
    assert torch.equal(told, remote_encode(f"{server.url}/sd-v1?sample_mode=argmax", rgb))


def test_refusals_are_sentences(server):
    for body, status, words in [(b"GIF89a", 400, "PNG, JPEG or WebP"), (b"", 400, "PNG, JPEG or WebP")]:
        answer = requests.post(server.url, data=body, timeout=60)
        assert answer.status_code == status
        assert words in answer.json()["error"]
    with pytest.raises(RuntimeError, match="no whole latent"):
        remote_encode(server.url, Image.new("RGB", (5, 64)))
    with pytest.raises(RuntimeError, match="allows"):
        remote_encode(server.url, Image.new("RGB", (4096, 4096)))
