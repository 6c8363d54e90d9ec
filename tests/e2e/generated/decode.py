"""Decodes and encodes with the client that openapi-python-client has made, as somebody would who reads its code.

    python decode.py URL LATENTS FOLDER      # LATENTS: float16 [1, 16, 8, 12]; PICTURE is in FOLDER
"""

import base64
import io
import sys
from pathlib import Path

from remote_vae_client import Client
from remote_vae_client.api.state import get_health, list_models
from remote_vae_client.api.work import predict, predict_json_with_model, predict_with_model
from remote_vae_client.models import ErrorBody, JsonBody, JsonBodyParametersType0
from remote_vae_client.models.json_body_parameters_type_0_dtype import JsonBodyParametersType0Dtype
from remote_vae_client.models.json_body_parameters_type_0_image_format import JsonBodyParametersType0ImageFormat
from remote_vae_client.models.predict_with_model_dtype import PredictWithModelDtype
from remote_vae_client.models.predict_with_model_image_format import PredictWithModelImageFormat
from remote_vae_client.models.predict_with_model_output_type import PredictWithModelOutputType
from remote_vae_client.types import File

url, latents, folder = sys.argv[1], Path(sys.argv[2]).read_bytes(), Path(sys.argv[3])
client = Client(base_url=url)
shape = [1, 16, 8, 12]

assert get_health.sync(client=client) == "Ok"
model = list_models.sync(client=client).models[0]
assert (model.name, model.latent_channels) == ("demo", 16)

tensor = {"shape": shape, "dtype": PredictWithModelDtype.FLOAT16}
factors = {"scaling_factor": model.scaling_factor, "shift_factor": model.shift_factor}
answer = predict_with_model.sync(
    "demo", client=client, body=File(io.BytesIO(latents)), image_format=PredictWithModelImageFormat.PNG, **tensor, **factors
)
(folder / "picture.png").write_bytes(answer.payload.read())

answer = predict_with_model.sync_detailed(
    "demo", client=client, body=File(io.BytesIO(latents)), output_type=PredictWithModelOutputType.PT, **tensor, **factors
)
assert answer.headers["shape"] == "[1, 3, 64, 96]"
(folder / "values").write_bytes(answer.content)

answer = predict_with_model.sync_detailed(
    "demo", client=client, body=File(io.BytesIO(latents)), partial_postprocess=True, **tensor, **factors
)
assert answer.headers["dtype"] == "uint8"
(folder / "bytes").write_bytes(answer.content)

body = JsonBody(
    inputs=base64.b64encode(latents).decode(),
    parameters=JsonBodyParametersType0(
        shape=shape, dtype=JsonBodyParametersType0Dtype.FLOAT16, image_format=JsonBodyParametersType0ImageFormat.PNG
    ),
)
answer = predict_json_with_model.sync("demo", client=client, body=body)
(folder / "by-json.png").write_bytes(answer.payload.read())

picture = (folder / "original.png").read_bytes()
answer = predict.sync_detailed(client=client, body=File(io.BytesIO(picture)), seed=7)
assert answer.headers["seed"] == "7"
(folder / "encoded").write_bytes(answer.content)

wrong = predict_with_model.sync("demo", client=client, body=File(io.BytesIO(b"")), **tensor)
assert isinstance(wrong, ErrorBody) and "3072" in wrong.error, wrong
