"""The description of the API is an OpenAPI document, and what the server sends is as it says."""

import jsonschema
import pytest
import requests
from openapi_spec_validator import validate


@pytest.fixture(scope="module")
def document(server):
    return requests.get(f"{server.url}/openapi.json", timeout=10).json()


def is_a(document: dict, name: str, value) -> None:
    """Checks a value against one of the document's schemas."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_the_document_is_valid(document):
    validate(document)
    assert document["openapi"].startswith("3.1")


def test_what_is_sent_is_what_is_described(server, document):
    is_a(document, "ModelList", requests.get(f"{server.url}/models", timeout=10).json())
    is_a(document, "ErrorBody", requests.post(server.url, timeout=10).json())
    with pytest.raises(jsonschema.ValidationError):
        is_a(document, "ErrorBody", {"message": "this is how others do it"})
    query = {"shape": [1, 16, 1, 1], "dtype": "float16", "output_type": "pt"}
    headers = {"Content-Type": "tensor/binary", "Accept": "application/json"}
    answer = requests.post(f"{server.url}/demo", params=query, headers=headers, data=bytes(32), timeout=60)
    is_a(document, "JsonAnswer", answer.json())
