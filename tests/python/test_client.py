"""The client against the running server and against stand-ins that fail, warn, or are busy."""

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
import time
import urllib.parse
import warnings

import numpy as np
import pytest
import remote_vae
import torch
from compare import assert_floats, assert_latents
from standing_in import PIXEL, refusal
from diffusers import AutoencoderKL
from PIL import Image
from place import PHOTOGRAPH, ROOT
from remote_vae import AsyncRemoteVae, RemoteVae, Retry

LATENTS = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
ONE = np.zeros((1, 4, 1, 1), np.float32)
QUICK = Retry(first_pause=0.01, longest_pause=0.05)


@pytest.fixture(scope="module")
def reference():
    """What diffusers decodes LATENTS to."""
    vae = AutoencoderKL.from_pretrained(ROOT / "assets" / "demo-vae", low_cpu_mem_usage=False).eval().requires_grad_(False)
    return vae, vae.decode(LATENTS.half().float() / vae.config.scaling_factor + vae.config.shift_factor).sample


FACTORS = {"scaling_factor": 0.3617, "shift_factor": 0.0693}


def test_what_a_decode_returns(server, reference):
    url = f"{server.url}/demo"
    latents, (vae, pixels) = LATENTS.half(), reference
    values = remote_vae.decode(latents, url, output_type="pt", **FACTORS)
    assert_floats(values, pixels)
    array = remote_vae.decode(latents.numpy(), url, output_type="pt", do_scaling=True)
    assert isinstance(array, np.ndarray) and np.array_equal(array, values.numpy())
    returned = remote_vae.decode(latents.numpy(), url, output_type="pt", return_type="pt", do_scaling=True)
    assert torch.equal(returned, values)
    for dtype in ("float16", "bfloat16", "float32"):
        assert remote_vae.decode(latents, url, output_type="pt", out_dtype=dtype).dtype == getattr(torch, dtype)
    packed = latents.view(2, 16, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 6, 64)
    assert torch.equal(remote_vae.decode(packed, url, output_type="pt", height=32, width=48, do_scaling=True), values)

    image = remote_vae.decode(latents[:1], url, **FACTORS)
    assert (image.format, image.size, image.mode) == ("JPEG", (48, 32), "RGB")
    assert remote_vae.decode(latents[1], url, image_format="webp").format == "WEBP"
    images = remote_vae.decode(latents, url, image_format="png", do_scaling=True)
    assert [one.format for one in images] == ["PNG", "PNG"]
    raw = remote_vae.decode(latents, url, output_type="pt", partial_postprocess=True, do_scaling=True)
    assert raw.dtype == torch.uint8
    for png, one in zip(images, raw):
        assert np.array_equal(np.asarray(png), one.numpy())
    pictures = remote_vae.decode(latents, url, output_type="pt", return_type="pil", partial_postprocess=True, do_scaling=True)
    assert [np.array_equal(np.asarray(png), one) for png, one in zip(images, pictures)] == [True, True]
    file = remote_vae.decode(latents[:1], url, return_type="file", image_format="png")
    assert file.startswith(b"\x89PNG")
    assert remote_vae.decode(latents, url, tiling=True, output_type="pt").shape == (2, 3, 32, 48)


def test_videos(server):
    latents = torch.randn(1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    url = f"{server.url}/video"
    values = remote_vae.decode(latents, url, output_type="pt", do_scaling=True)
    frames = remote_vae.decode(latents, url, do_scaling=True)
    assert values.shape == (1, 3, 5, 24, 32) and len(frames) == 5 and frames[0].size == (32, 24)
    expected = ((values[0, :, 4].permute(1, 2, 0).float() / 2 + 0.5).clamp(0, 1) * 255).round()
    assert (torch.from_numpy(np.array(frames[4])) - expected).abs().max() <= 1
    assert remote_vae.decode(latents, url, output_type="mp4", fps=8)[4:8] == b"ftyp"


def test_what_an_encode_takes(server, reference):
    url, (vae, _) = f"{server.url}/demo", reference
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((48, 32))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        posterior = vae.encode(pixels / 127.5 - 1).latent_dist
    mode = remote_vae.encode(image, url, sample_mode="argmax", out_dtype="float32")
    assert isinstance(mode, np.ndarray)
    assert_latents(torch.from_numpy(mode), posterior.mode())
    file = remote_vae.decode(LATENTS[:1], url, return_type="file", image_format="png")
    assert np.array_equal(remote_vae.encode(pixels.numpy(), url, sample_mode="argmax", out_dtype="float32"), mode)
    for other in [pixels.float() / 127.5 - 1, pixels.double() / 255]:
        encoded = remote_vae.encode(other, url, sample_mode="argmax", out_dtype="float32")
        assert isinstance(encoded, torch.Tensor)
        assert (encoded - torch.from_numpy(mode)).abs().max() <= 1e-3
    first, second = (remote_vae.encode(image, url, seed=7, return_type="pt") for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, remote_vae.encode(image, url, return_type="pt"))
    assert np.array_equal(remote_vae.encode(PHOTOGRAPH, url, seed=7), remote_vae.encode(PHOTOGRAPH.read_bytes(), url, seed=7))
    assert remote_vae.encode(file, url).shape == (1, 16, 4, 6)
    cmyk = remote_vae.encode(image.convert("CMYK"), url, sample_mode="argmax", out_dtype="float32")
    assert np.abs(cmyk - mode).max() < 0.2
    moments = remote_vae.encode(pixels, url, sample_mode="moments", out_dtype="float32")
    assert moments.shape == (1, 32, 4, 6)
    assert_latents(moments, posterior.parameters)
    with pytest.raises(remote_vae.RefusedError, match="not scaled"):
        remote_vae.encode(pixels, url, sample_mode="moments", scaling_factor=2.0)


def test_asynchronous(server):
    async def all_of_it():
        async with AsyncRemoteVae(f"{server.url}/demo") as vae:
            images = await asyncio.gather(*(vae.decode(LATENTS[:1], do_scaling=True) for _ in range(4)))
            models = await vae.models()
        latents = await remote_vae.aencode(images[0], f"{server.url}/demo")
        return images, models, latents, await remote_vae.adecode(latents, f"{server.url}/demo")

    images, models, latents, again = asyncio.run(all_of_it())
    assert [image.size for image in images] == [(48, 32)] * 4 and again.size == (48, 32)
    assert [model["name"] for model in models] == ["demo", "sd", "flux", "video"]
    assert latents.shape == (1, 16, 4, 6)
    # A client outlives an event loop.
    vae = AsyncRemoteVae(f"{server.url}/demo")
    assert [asyncio.run(vae.decode(LATENTS[:1])).size for _ in range(2)] == [(48, 32)] * 2


def test_many_threads_share_a_client(server):
    with RemoteVae(f"{server.url}/demo") as vae, concurrent.futures.ThreadPoolExecutor(8) as pool:
        tensors = list(pool.map(lambda _: vae.decode(LATENTS, output_type="pt"), range(16)))
    assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)


def test_inside_a_running_loop_and_after_a_fork(server):
    """As in a notebook; and in a worker of a data loader."""

    async def notebook():
        return remote_vae.decode(LATENTS[:1], f"{server.url}/demo")

    assert asyncio.run(notebook()).size == (48, 32)
    code = f"""
import os, sys, numpy, remote_vae
vae = remote_vae.RemoteVae("{server.url}/demo")
latents = numpy.zeros((1, 16, 2, 2), numpy.float16)
vae.decode(latents, return_type="file")
child = os.fork()
vae.decode(latents, return_type="file")
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    path = {"PYTHONPATH": str(ROOT / "python" / "src")}
    subprocess.run([sys.executable, "-c", code], env=path, check=True, timeout=60)


def test_refusals_have_the_servers_words(server):
    with pytest.raises(remote_vae.RefusedError) as caught:
        remote_vae.decode(np.zeros((1, 5, 4, 4), np.float32), f"{server.url}/demo")
    assert caught.value.status == 422 and caught.value.message.startswith("latents of shape [1, 5, 4, 4] do not fit")
    assert caught.value.request_id and caught.value.retry_after is None
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(remote_vae.RefusedError, match="status 404: there is no model"):
        remote_vae.decode(ONE, f"{server.url}/nothing")


def test_warnings_name_the_line_of_the_caller(stand_in):
    status, headers, body = PIXEL
    odd = stand_in((status, {**headers, "x-warning": "the first 64 values are odd"}, body))
    with pytest.warns(remote_vae.ServerWarning, match="the first 64 values are odd") as caught:
        remote_vae.decode(ONE, odd.url, output_type="pt")
    assert caught[0].filename == __file__

    async def in_a_task():
        await remote_vae.adecode(ONE, odd.url, output_type="pt")

    with pytest.warns(remote_vae.ServerWarning) as caught:
        asyncio.run(in_a_task())
    assert caught[0].filename == __file__


def test_what_is_sent(stand_in):
    server = stand_in(PIXEL)
    url = server.url.replace("http://", "http://user:SECRET@") + "/sdxl?api_key=k%20y"
    options = {"scaling_factor": np.float32(0.5), "output_type": "pt", "tiling": True, "framewise": False, "out_dtype": "float32"}
    remote_vae.decode(ONE, url, api_key="unused", **options)
    remote_vae.decode(ONE, server.url, api_key="KEY", output_type="pt")
    first, second = server.received
    path, _, query = first.path.partition("?")
    assert path == "/sdxl" and first.headers["authorization"] == "Basic dXNlcjpTRUNSRVQ="
    assert urllib.parse.parse_qs(query) == {
        "api_key": ["k y"], "shape": ["1", "4", "1", "1"], "dtype": ["float32"], "scaling_factor": ["0.5"],
        "output_type": ["pt"], "tiling": ["True"], "framewise": ["False"], "out_dtype": ["float32"],
    }  # fmt: skip
    assert first.headers["content-type"] == first.headers["accept"] == "tensor/binary"
    assert first.body == bytes(16)
    assert second.path.startswith("/?") and second.headers["authorization"] == "Bearer KEY"


def test_keys_stay_out_of_errors():
    with pytest.raises(remote_vae.ConnectError) as caught:
        remote_vae.decode(ONE, "http://user:SECRET@127.0.0.1:1/sdxl?api_key=SECRET", retry=Retry.never())
    assert "SECRET" not in str(caught.value)
    assert str(caught.value) == "cannot connect to http://127.0.0.1:1/sdxl: nothing listens there; is a server running?"
    for url in ["127.0.0.1:8080", "ftp://user:SECRET@host/", "", "http://user:SECRET@host:port", "http://"]:
        with pytest.raises(remote_vae.EndpointError) as caught:
            RemoteVae(url)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(remote_vae.EndpointError, match="printable ASCII"):
        RemoteVae("http://host/", api_key="k\ney")
    with pytest.raises(remote_vae.EndpointError, match="no endpoint"):
        RemoteVae([])


def test_options_that_make_no_sense(server):
    for options, said in [
        ({"shift_factor": 1.0}, "needs `scaling_factor`"),
        ({"output_type": "mp4", "return_type": "pt"}, "cannot be returned as 'pt'"),
        ({"output_type": "pt", "return_type": "pil"}, "cannot be returned as 'pil'"),
    ]:
        with pytest.raises(remote_vae.InputError, match=said):
            remote_vae.decode(ONE, server.url, **options)
    with pytest.raises(TypeError, match="decode has no option 'scaling_facto'"):
        remote_vae.decode(ONE, server.url, scaling_facto=1.0)
    with pytest.raises(TypeError, match="encode has no option 'output_type'"):
        remote_vae.encode(ONE, server.url, output_type="pt")


def test_nobody_is_asked_before_retry_after(stand_in):
    server = stand_in(refusal(503, retry_after="1"), refusal(429, "full"), PIXEL)
    told = []
    with RemoteVae(server.url, retry=QUICK, on_retry=lambda error, pause: told.append((error, pause))) as vae:
        begun = time.monotonic()
        vae.decode(ONE, output_type="pt")
    assert 1.0 <= time.monotonic() - begun < 5
    assert len(server.received) == 3
    (first, pause), (second, _) = told
    assert (first.status, first.retry_after) == (503, 1.0) and 1.0 <= pause <= 1.25
    assert (second.status, second.message, second.retry_after) == (429, "full", None)
    assert len({request.body for request in server.received}) == 1


def test_a_busy_server_is_given_up_in_the_end(stand_in):
    server = stand_in(refusal(503, "full", retry_after="30"))
    with pytest.raises(remote_vae.BusyError, match="full") as caught:
        remote_vae.decode(ONE, server.url, retry=Retry(busy_patience=10))
    assert caught.value.retry_after == 30 and len(server.received) == 1


@pytest.mark.parametrize("failure", [(0, {}, b""), (502, {}, b"<html><title>Bad Gateway</title>"), (504, {}, b"")])
def test_what_may_go_away_is_tried_again(stand_in, failure):
    server = stand_in(failure, failure, PIXEL)
    assert remote_vae.decode(ONE, server.url, output_type="pt", retry=QUICK).tolist() == [[1.0]]
    assert len(server.received) == 3


def test_what_breaks_each_time_is_given_up(stand_in):
    server = stand_in((0, {}, b""))
    with pytest.raises(remote_vae.ConnectionBrokenError, match="broke"):
        remote_vae.decode(ONE, server.url, output_type="pt", retry=QUICK)
    assert len(server.received) == 5


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 307])
def test_what_would_fail_again_is_final(stand_in, status):
    server = stand_in(refusal(status, "the reason", location="http://elsewhere/"))
    said = "moved to http://elsewhere/" if status == 307 else "the reason"
    with pytest.raises(remote_vae.RefusedError, match=said) as caught:
        remote_vae.decode(ONE, server.url, retry=QUICK)
    assert caught.value.status == status and len(server.received) == 1


def test_a_server_that_comes_back(stand_in):
    """Its endpoint is down at first, and has answered before."""
    server = stand_in(PIXEL)
    with RemoteVae(server.url, retry=QUICK) as vae:
        vae.decode(ONE, output_type="pt")
        server.answers = [(0, {}, b""), (0, {}, b""), PIXEL]
        vae.decode(ONE, output_type="pt")
    assert len(server.received) == 4


def test_requests_go_to_the_least_busy(stand_in):
    hold = threading.Event()
    slow, fast = stand_in(PIXEL), stand_in(PIXEL)
    slow.wait = hold.wait
    with RemoteVae([slow.url, fast.url]) as vae, concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(vae.decode, ONE, output_type="pt")
        while not slow.received:
            time.sleep(0.005)
        for _ in range(5):
            vae.decode(ONE, output_type="pt")
        hold.set()
        held.result()
    assert (len(slow.received), len(fast.received)) == (1, 5)


def test_one_that_fails_is_left_out(stand_in):
    down, up = stand_in((502, {}, b"")), stand_in(PIXEL)
    with RemoteVae([down.url, "http://127.0.0.1:1/", up.url]) as vae:
        for _ in range(6):
            vae.decode(ONE, output_type="pt")
    assert len(up.received) == 6 and 1 <= len(down.received) <= 3


def test_no_answer_in_time(stand_in):
    hold = threading.Event()
    slow, fast = stand_in(PIXEL), stand_in(PIXEL)
    slow.wait = lambda: hold.wait(10)
    begun = time.monotonic()
    with pytest.raises(remote_vae.RequestTimeoutError, match="within 0.2 s"):
        remote_vae.decode(ONE, slow.url, output_type="pt", timeout=0.2)
    remote_vae.decode(ONE, [slow.url, fast.url], output_type="pt", timeout=0.2)
    assert time.monotonic() - begun < 5 and len(slow.received) == 2 and len(fast.received) == 1
    hold.set()


def test_to_cancel_a_task_closes_the_connection(stand_in):
    hold = threading.Event()
    slow = stand_in(PIXEL)
    slow.wait = lambda: hold.wait(10)

    async def give_up():
        task = asyncio.create_task(remote_vae.adecode(ONE, slow.url, output_type="pt"))
        while not slow.received:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    begun = time.monotonic()
    asyncio.run(give_up())
    assert time.monotonic() - begun < 5
    hold.set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {"shape": "[1, 1]", "dtype": "float16"}, b"\x00"), "it is no tensor"),
        ((200, {"dtype": "float16"}, b"\x00\x3c"), "it is no tensor"),
        ((200, {"shape": "[1]", "dtype": "int3"}, b"\x00\x3c"), "it is no tensor"),
        ((200, {}, bytes(3 << 20)), "more than 1 MiB"),
    ],
)
def test_answers_that_are_none(stand_in, answer, said):
    with pytest.raises(remote_vae.AnswerError, match=said):
        remote_vae.decode(ONE, stand_in(answer).url, output_type="pt")
    with pytest.raises(remote_vae.AnswerError, match="more than|no picture"):
        remote_vae.decode(ONE, stand_in(answer).url)
    with pytest.raises(remote_vae.AnswerError, match="more than|no list of models"):
        RemoteVae(stand_in((200, {}, b'{"models": 1}')).url).models()


def test_a_proxys_page_is_told_from_the_servers_words(stand_in):
    nginx = b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>"
    with pytest.raises(remote_vae.RefusedError, match="a proxy in front of it .413 Request.*client_max_body_size"):
        remote_vae.decode(ONE, stand_in((413, {"content-type": "text/html"}, nginx)).url)
    with pytest.raises(remote_vae.RefusedError, match="Bad thing"):
        remote_vae.decode(ONE, stand_in((500, {}, b"Bad thing")).url)


def test_importing_needs_neither_torch_nor_pillow():
    code = "from remote_vae import *; import sys; assert not {'torch', 'diffusers', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "python" / "src")}, check=True, timeout=60)


def test_nothing_is_warned_of_without_need(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert remote_vae.decode(LATENTS, f"{server.url}/demo", output_type="pt").shape == (2, 3, 32, 48)
