"""Decode the latents of diffusion models on another machine, and encode pictures to latents there.

    import remote_vae

    image = remote_vae.decode(latents, "http://127.0.0.1:8080/", scaling_factor=0.18215)

`RemoteVae` keeps its connections; `AsyncRemoteVae` is the same for asynchronous code. `DecodeQueue` decodes while a pipeline
goes on, and `EncodeQueue` encodes pictures so. `RemoteAutoencoder` is what a pipeline of diffusers takes as `vae=`. `remote_decode` and `remote_encode` take the
arguments of diffusers' functions of these names.

This package needs numpy and httpx2. It uses torch and Pillow where they are needed for what is requested.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ._calls import Decoded, DecodeOptions, Encodable, EncodeOptions
from ._client import AsyncRemoteVae, RemoteVae
from ._drop_in import remote_decode, remote_encode
from ._errors import (
    AnswerError,
    BusyError,
    ClosedError,
    ConnectError,
    ConnectionBrokenError,
    EndpointError,
    InputError,
    RefusedError,
    RemoteVaeError,
    RequestTimeoutError,
    ServerWarning,
    TransportError,
)
from ._queue import Counters, DecodeQueue, EncodeQueue, Finished
from ._retry import Retry
from ._tensors import Tensor
from ._version import __version__

if TYPE_CHECKING:
    from ._autoencoder import RemoteAutoencoder as RemoteAutoencoder

# Without RemoteAutoencoder, so that `import *` does not need torch.
__all__ = [
    "AnswerError",
    "AsyncRemoteVae",
    "BusyError",
    "ClosedError",
    "ConnectError",
    "ConnectionBrokenError",
    "Counters",
    "DecodeOptions",
    "DecodeQueue",
    "EncodeOptions",
    "EncodeQueue",
    "EndpointError",
    "Finished",
    "InputError",
    "RefusedError",
    "RemoteVae",
    "RemoteVaeError",
    "RequestTimeoutError",
    "Retry",
    "ServerWarning",
    "TransportError",
    "__version__",
    "adecode",
    "aencode",
    "decode",
    "encode",
    "remote_decode",
    "remote_encode",
]


def decode(
    latents: Tensor,
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    timeout: float = 300.0,
    retry: Retry | None = None,
    **options: Unpack[DecodeOptions],
) -> Decoded:
    """Decodes once: `RemoteVae.decode`, which says what goes in, comes out, and can go wrong. For more than one picture keep
    a `RemoteVae`, whose arguments `url`, `api_key`, `timeout` (seconds) and `retry` are."""
    with RemoteVae(url, api_key=api_key, timeout=timeout, retry=retry) as vae:
        return vae.decode(latents, **options)


def encode(
    image: Encodable,
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    timeout: float = 300.0,
    retry: Retry | None = None,
    **options: Unpack[EncodeOptions],
) -> Tensor:
    """Encodes once: `RemoteVae.encode`; the other arguments are those of `decode`."""
    with RemoteVae(url, api_key=api_key, timeout=timeout, retry=retry) as vae:
        return vae.encode(image, **options)


async def adecode(
    latents: Tensor,
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    timeout: float = 300.0,
    retry: Retry | None = None,
    **options: Unpack[DecodeOptions],
) -> Decoded:
    """`decode` for asynchronous code. To cancel its task ends the work on the server, too."""
    async with AsyncRemoteVae(url, api_key=api_key, timeout=timeout, retry=retry) as vae:
        return await vae.decode(latents, **options)


async def aencode(
    image: Encodable,
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    timeout: float = 300.0,
    retry: Retry | None = None,
    **options: Unpack[EncodeOptions],
) -> Tensor:
    """`encode` for asynchronous code."""
    async with AsyncRemoteVae(url, api_key=api_key, timeout=timeout, retry=retry) as vae:
        return await vae.encode(image, **options)


def __getattr__(name: str) -> Any:
    # It needs torch and diffusers, which nothing else here does.
    if name == "RemoteAutoencoder":
        try:
            from ._autoencoder import RemoteAutoencoder
        except ModuleNotFoundError as error:
            message = f"RemoteAutoencoder needs {error.name}: pip install 'remote-vae[diffusers]'"
            raise ModuleNotFoundError(message, name=error.name) from error
        return RemoteAutoencoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
