"""A VAE for diffusers' pipelines that works on another machine. It needs torch and diffusers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook

from ._client import RemoteVae
from ._errors import AnswerError, InputError, RefusedError, RemoteVaeError
from ._retry import Retry


class RemoteAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers has no types
    """What a pipeline of diffusers takes as `vae=`: it decodes and encodes on a server, and holds no weights.

        vae = RemoteAutoencoder("http://192.168.1.20:8080/flux")
        pipe = FluxPipeline.from_pretrained("black-forest-labs/FLUX.1-schnell", vae=vae, torch_dtype=torch.bfloat16)

    It is a `ModelMixin`, as pipelines demand, and takes part in `pipe.to(...)` and offloading with a buffer of no values.
    Results have the type and are on the device of what was given, whatever `dtype` and `device` are.

    `config` is what the server says of the model (`GET /models`), under diffusers' names: `scaling_factor`, `shift_factor`,
    `latents_mean`, `latents_std`, `latent_channels` (`z_dim`), and so on. Of `block_out_channels` only the length says
    something: pipelines conclude the factor of the sides from it. `force_upcast` is False: types of the server are its own.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = False

    def __init__(
        self,
        url: str | Sequence[str],
        model: str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        api_key: str | None = None,
        timeout: float = 300.0,
        retry: Retry | None = None,
        on_retry: Callable[[RemoteVaeError, float], object] | None = None,
        **config: Any,
    ) -> None:
        """Asks the server what the model is.

        Args:
            url: of the server, or of several with the same model; see `RemoteVae`.
            model: the name of the model, if `url` does not end with it; otherwise the first one of the server.
            dtype: what pipelines bring latents to before they decode them; as their `torch_dtype`.
            device: the same for the device. `to()` changes both.
            api_key, timeout, retry, on_retry: as for `RemoteVae`.
            config: what the configuration says beside, or instead of, what the server says.

        Raises:
            RemoteVaeError: the server cannot be reached or has no such model.
        """
        super().__init__()
        urls = [url] if isinstance(url, str) else list(url)
        if model is not None:
            urls = [_with_model(one, model) for one in urls]
        self._vae = RemoteVae(urls, api_key=api_key, timeout=timeout, retry=retry, on_retry=on_retry)
        self.register_buffer("_no_values", torch.empty(0, dtype=dtype, device=device), persistent=False)
        self.use_tiling = self.use_slicing = False
        self.use_framewise_decoding = self.use_framewise_encoding = True

        details = self._details()
        halvings = round(math.log2(details["spatial_factor"]))
        temporal_factor = details.get("temporal_factor") or 1
        doublings = round(math.log2(temporal_factor))
        # Pipelines of videos read these of the model itself.
        self.spatial_compression_ratio = details["spatial_factor"]
        self.temporal_compression_ratio = temporal_factor
        self.temperal_downsample = [False] * (halvings - doublings) + [True] * doublings
        self.register_to_config(
            **{
                "_class_name": details["class_name"],
                "in_channels": details.get("out_channels", 3),
                "out_channels": details.get("out_channels", 3),
                "latent_channels": details["latent_channels"],
                "z_dim": details["latent_channels"],
                "block_out_channels": (0,) * (halvings + 1),
                "scaling_factor": details["scaling_factor"],
                "shift_factor": details.get("shift_factor"),
                "latents_mean": details.get("latents_mean"),
                "latents_std": details.get("latents_std"),
                "scale_factor_spatial": details["spatial_factor"],
                "scale_factor_temporal": temporal_factor,
                "force_upcast": False,
                **config,
            }
        )
        if (statistics := details.get("batch_norm")) is not None:
            # FLUX.2 normalises packed latents by statistics that are among the weights.
            self.bn = torch.nn.BatchNorm2d(
                len(statistics["running_mean"]), eps=statistics["eps"], affine=False, dtype=dtype, device=device
            )
            self.bn.running_mean.copy_(torch.tensor(statistics["running_mean"]))
            self.bn.running_var.copy_(torch.tensor(statistics["running_var"]))
            self.register_to_config(batch_norm_eps=statistics["eps"])
        self.eval()

    def _details(self) -> dict[str, Any]:
        """What the server says of the model, once it is loaded."""
        found = self._found()
        if "latent_channels" not in found:
            # The first request loads it. This one is refused then: no model has latents of one value.
            try:
                self._vae.decode(torch.zeros(1, 1, 1, 1), output_type="pt")
            except RefusedError as error:
                if error.status != 422:
                    raise
            found = self._found()
        if "latent_channels" not in found:
            raise AnswerError(f"the server does not say what its model {found['name']!r} is: is it an older version?")
        return found

    def _found(self) -> dict[str, Any]:
        models = self._vae.models()
        name = self._vae._exchanger.endpoints[0].model
        for found in models:
            if found.get("default") if name is None else found.get("name") == name:
                return found
        served = ", ".join(str(found.get("name")) for found in models)
        raise InputError(f"the server has no model {name!r}; it serves {served}")

    def enable_tiling(self, *sizes: Any, **named: Any) -> None:
        """Decodes and encodes in tiles, as diffusers does; their sizes are those of the model's configuration.

        Raises:
            InputError: sizes of tiles, which the protocol cannot say.
        """
        if sizes or named:
            raise InputError("the sizes of tiles are those of the served model: call `enable_tiling()` without any")
        self.use_tiling = True

    def disable_tiling(self) -> None:
        """Decodes and encodes as a whole."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Sends the items of a batch one by one."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Sends a batch in one request."""
        self.use_slicing = False

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Decodes latents as the local VAE takes them, without scaling: [B, C, h, w], of videos [B, C, f, h, w].

        Args:
            z: the latents.
            return_dict: False for a tuple.
            generator: has no effect, as for the local one.

        Returns:
            A `DecoderOutput`, whose `sample` has the type of `z` and is on its device: [B, 3, H, W] nominally in [-1, 1], of
            videos [B, 3, F, H, W].

        Raises:
            RemoteVaeError: as `RemoteVae.decode`.
        """
        sample = torch.cat([self._decoded(part) for part in self._parts(z)])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _decoded(self, z: torch.Tensor) -> torch.Tensor:
        sample = self._vae.decode(
            z,
            output_type="pt",
            out_dtype=_wire_type(z.dtype),
            tiling=self.use_tiling,
            framewise=self.use_framewise_decoding,
        )
        assert isinstance(sample, torch.Tensor)
        if z.ndim == 5 and sample.ndim == 4:
            # A picture as a video of one frame.
            sample = sample.unsqueeze(2)
        return sample.to(z.device, z.dtype)

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Encodes pictures as the local VAE takes them: [B, 3, H, W] in [-1, 1] with sides that are whole latents, of videos
        [B, 3, F, H, W].

        Args:
            x: the pixels.
            return_dict: False for a tuple.

        Returns:
            An `AutoencoderKLOutput`, whose `latent_dist` is diffusers' own distribution, of the type and on the device of
            `x`: its `sample(generator)` and `mode()` are [B, C, h, w], not scaled.

        Raises:
            RemoteVaeError: as `RemoteVae.encode`.
        """
        posterior = DiagonalGaussianDistribution(torch.cat([self._moments(part) for part in self._parts(x)]))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _moments(self, x: torch.Tensor) -> torch.Tensor:
        moments = self._vae.encode(
            x,
            sample_mode="moments",
            out_dtype=_wire_type(x.dtype),
            tiling=self.use_tiling,
            framewise=self.use_framewise_encoding,
        )
        assert isinstance(moments, torch.Tensor)
        if x.ndim == 5 and moments.ndim == 4:
            moments = moments.unsqueeze(2)
        return moments.to(x.device, x.dtype)

    def _parts(self, batch: torch.Tensor) -> Sequence[torch.Tensor]:
        return batch.split(1) if self.use_slicing else [batch]

    def forward(
        self, sample: torch.Tensor, sample_posterior: bool = False, return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Encodes pictures and decodes them again, by the mode of their distribution or a sample of it."""
        posterior = self.encode(sample).latent_dist
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict=return_dict)


def _with_model(url: str, model: str) -> str:
    address, question, query = url.partition("?")
    return f"{address.rstrip('/')}/{model}{question}{query}"


def _wire_type(dtype: torch.dtype) -> Any:
    """How values of a type travel back without loss that it could show."""
    return {torch.float16: "float16", torch.bfloat16: "bfloat16"}.get(dtype, "float32")
