"""The clients: `RemoteVae`, and `AsyncRemoteVae` for asynchronous code."""

import json
import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from . import _loop
from ._calls import Decoded, DecodeOptions, Encodable, EncodeOptions, decode_call, encode_call
from ._endpoints import Connecting
from ._errors import AnswerError, EndpointError, RemoteVaeError
from ._exchange import Exchanger, Request
from ._retry import Retry
from ._tensors import Tensor

MAX_DOCUMENT = 4 << 20
"""Bytes of a list of models."""


def exchanger(
    url: str | Sequence[str],
    api_key: str | None = None,
    timeout: float = 300.0,
    connect_timeout: float = 10.0,
    retry: Retry | None = None,
    on_retry: Callable[[RemoteVaeError, float], object] | None = None,
    verify: ssl.SSLContext | bool = True,
) -> Exchanger:
    """What both clients send with; their parameters are described there."""
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise EndpointError("the API key has characters that cannot be sent: a key is of printable ASCII characters")
    urls = [url] if isinstance(url, str) else list(url)
    return Exchanger(urls, Connecting(api_key, connect_timeout, verify), timeout, retry or Retry(), on_retry)


def models_request() -> Request:
    """What asks for the list of models."""
    return Request("", {"accept": "application/json"}, b"", MAX_DOCUMENT, path="/models")


def read_models(body: bytes) -> list[dict[str, Any]]:
    """The list of models."""
    try:
        models = json.loads(body)["models"]
    except (ValueError, KeyError, TypeError):
        models = None
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise AnswerError("the server's answer cannot be used: it is no list of models of a remote-vae server")
    return models


class AsyncRemoteVae:
    """A remote VAE for asynchronous code (asyncio). To cancel the task of a call ends the work on the server, too.

    Keep one and use it often: it keeps its connections. It is used as `async with AsyncRemoteVae(url) as vae`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        connect_timeout: float = 10.0,
        retry: Retry | None = None,
        on_retry: Callable[[RemoteVaeError, float], object] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: such as `http://127.0.0.1:8080/`, with a model's name `http://127.0.0.1:8080/sdxl`. A user and a password in
                it are sent as Basic authorization. Of several servers with the same model, each request goes to the one
                with the fewest requests of this client; one that cannot be reached is left out for a while.
            api_key: sent as `Authorization: Bearer KEY` to each server whose URL has no user.
            timeout: seconds that one try may take, from its first byte sent to the last one read.
            connect_timeout: seconds that a connection may take.
            retry: what to do when a server cannot be reached or is busy.
            on_retry: called before each pause, with what went wrong and the pause in seconds: for a log.
            verify: an `ssl.SSLContext` for https, False for none of its checks; the system's certificates by itself.

        Raises:
            EndpointError: a URL or a key that cannot be used.
        """
        self._exchanger = exchanger(url, api_key, timeout, connect_timeout, retry, on_retry, verify)

    async def decode(self, latents: Tensor, **options: Unpack[DecodeOptions]) -> Decoded:
        """As `RemoteVae.decode`."""
        call = decode_call(latents, options)
        decoded: Decoded = call.finish(await self._exchanger.exchange(call.request))
        return decoded

    async def encode(self, image: Encodable, **options: Unpack[EncodeOptions]) -> Tensor:
        """As `RemoteVae.encode`."""
        call = encode_call(image, options)
        latents: Tensor = call.finish(await self._exchanger.exchange(call.request))
        return latents

    async def models(self) -> list[dict[str, Any]]:
        """As `RemoteVae.models`."""
        return read_models((await self._exchanger.exchange(models_request())).body)

    async def close(self) -> None:
        """Closes the connections."""
        await self._exchanger.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self.close()


class RemoteVae:
    """A remote VAE: latents in, pictures or tensors out, and the way back. It may be used by several threads at a time.

    Keep one and use it often: it keeps its connections. It may be used as `with RemoteVae(url) as vae`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        connect_timeout: float = 10.0,
        retry: Retry | None = None,
        on_retry: Callable[[RemoteVaeError, float], object] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """As `AsyncRemoteVae`."""
        self._exchanger = exchanger(url, api_key, timeout, connect_timeout, retry, on_retry, verify)

    def decode(self, latents: Tensor, **options: Unpack[DecodeOptions]) -> Decoded:
        """Decodes latents: [B, C, h, w], [C, h, w], or packed [B, tokens, 4C] with `height` and `width`; of videos
        [B, C, f, h, w]. They may be a tensor of torch on any device or an array of numpy, in any layout; float16, bfloat16,
        float32, float64 or uint8.

        Args:
            latents: as above.
            options: see `DecodeOptions`.

        Returns:
            By `output_type` and `return_type`: a `PIL.Image.Image` (of a batch or a video, a list), a tensor
            [B, 3, H, W] (video [B, 3, F, H, W]; bytes [B, H, W, 3] with `partial_postprocess`), or bytes of a file.

        Raises:
            InputError: latents or options that cannot be sent, such as NaN.
            TransportError: the server cannot be reached, or does not answer in time.
            RefusedError: its refusal, in its own words; `BusyError` when it is busy for longer than patience lasts.
            AnswerError: an answer that is not what was requested.
        """
        call = decode_call(latents, options)
        decoded: Decoded = call.finish(_loop.run(self._exchanger.exchange(call.request)))
        return decoded

    def encode(self, image: Encodable, **options: Unpack[EncodeOptions]) -> Tensor:
        """Encodes a picture: a PIL image, the bytes or the path of a PNG, JPEG or WebP file, or a tensor [B, 3, H, W] or
        [3, H, W], of videos [B, 3, F, H, W]: with a negative value in [-1, 1], else in [0, 1]; uint8 from 0 to 255.

        Args:
            image: as above.
            options: see `EncodeOptions`.

        Returns:
            Latents [B, C, h, w] (video [B, C, f, h, w]), or with `sample_mode="moments"` [B, 2C, h, w].

        Raises:
            RemoteVaeError: as `decode`.
        """
        call = encode_call(image, options)
        latents: Tensor = call.finish(_loop.run(self._exchanger.exchange(call.request)))
        return latents

    def models(self) -> list[dict[str, Any]]:
        """What the server serves (`GET /models`), of several servers what one of them does: for each model its `name`,
        whether it is the `default`, and once it is loaded `class_name`, `latent_channels`, `spatial_factor`,
        `temporal_factor`, `can_encode`, `out_channels`, `scaling_factor`, `shift_factor`, `latents_mean`, `latents_std`,
        `batch_norm`, `tokens`.

        Raises:
            TransportError, RefusedError, AnswerError: as `decode`.
        """
        return read_models(_loop.run(self._exchanger.exchange(models_request())).body)

    def close(self) -> None:
        """Closes the connections."""
        _loop.run(self._exchanger.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
