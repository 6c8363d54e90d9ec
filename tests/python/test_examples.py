"""The notebook runs from its top to its end."""

import json

from place import ROOT


def test_the_notebook(server, capsys):
    notebook = json.loads((ROOT / "examples" / "decode_queue.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    shown = []
    names = {"display": shown.append}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            code = "".join(cell["source"]).replace("http://127.0.0.1:8080/", f"{server.url}/demo")
            exec(compile(code, "notebook", "exec"), names)
    assert [image.size for image in shown] == [(256, 256)] * 4
    assert capsys.readouterr().out.splitlines()[0] == "a fox in the snow (256, 256)"
