"""What stands in deploy/: its settings, metrics and routes are those that the program has."""

import json
import re
import socket
import subprocess
import tomllib

import pytest
import requests
import yaml
from place import ROOT, binary, clean_environment
from prometheus import figure
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
from service import serving

DEPLOY = ROOT / "deploy"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "remote-vae.yaml").read_text()))


def manifest(kind: str) -> dict:
    return next(document for document in MANIFESTS if document["kind"] == kind)


def config(*arguments, **environment) -> str:
    command = [binary(), "config", *arguments]
    done = subprocess.run(command, env=clean_environment(**environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def figures(server, demo):
    latents = demo.latents(1, 4, 4)
    query = {"shape": list(latents.shape), "dtype": "float16", "output_type": "pt"}
    headers = {"content-type": "tensor/binary"}
    answer = requests.post(f"{server.url}/demo", params=query, data=latents.numpy().tobytes(), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return requests.get(f"{server.url}/metrics", timeout=10).text


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "remote-vae.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    assert len(queries) > 10 and variables
    return queries + variables


def test_the_dashboard_asks_for_figures_that_exist(figures):
    """Names of metrics, and the labels by which they are chosen and summed up."""
    there = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", figures, re.M):
        there.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    asked = set()
    for expression in expressions():
        names = re.findall(r"\bremote_vae_\w+", expression)
        assert names, expression
        asked.update(names)
        for name in names:
            assert name in there, f"{expression}: there is no {name}"
        labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        labels |= set(re.findall(r"[{,]\s*(\w+)=~", expression))
        known = set.union(*(there[name] for name in names))
        assert labels <= known, f"{expression}: {labels - known} are no labels of {names}"
    # And the other way round: nothing is counted that the dashboard does not show.
    families = set(re.findall(r"^# TYPE (\w+) ", figures, re.M))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert families == shown


def test_the_autoscaler_looks_at_a_figure_that_exists(figures):
    (metric,) = manifest("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert figure(figures, metric["pods"]["metric"]["name"]) == 0


def test_probes_ask_what_is_answered(tmp_path):
    """At the port for probes, by Kubernetes and by the image's own health check."""
    pod = manifest("Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    settings = tomllib.loads(manifest("ConfigMap")["data"]["remote-vae.toml"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (ports["admin"], pod["metadata"]["annotations"]["prometheus.io/port"]) == (settings["admin-port"], str(settings["admin-port"]))
    assert pod["spec"]["enableServiceLinks"] is False
    # What runs when the pod is stopped fits into its time.
    seconds = {"s": 1, "m": 60}
    stop = sum(int(settings[key][:-1]) * seconds[settings[key][-1]] for key in ("drain-delay", "drain-timeout"))
    assert pod["spec"]["terminationGracePeriodSeconds"] > stop
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", dockerfile, re.M)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    checks = [json.loads(check), compose["services"]["remote-vae"]["healthcheck"]["test"][1:]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        admin = str(probe.getsockname()[1])
    with serving(["--admin-port", admin], tmp_path / "log"):
        for probe, path in [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]:
            assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
            assert requests.get(f"http://127.0.0.1:{admin}{path}", timeout=10).status_code == 200
        for program, *arguments in checks:
            assert program == "/usr/local/bin/remote-vae"
            environment = clean_environment(REMOTE_VAE_ADMIN_PORT=admin, REMOTE_VAE_HOST="0.0.0.0")
            assert subprocess.run([binary(), *arguments], env=environment, check=False).returncode == 0


def test_figures_are_read_by_prometheus_own_parsers(server):
    """As text 0.0.4 and as OpenMetrics: the same samples, and of the same kinds."""

    def read(media_type: str, read) -> dict:
        answer = requests.get(f"{server.url}/metrics", headers={"accept": media_type}, timeout=10)
        assert answer.headers["content-type"].startswith(media_type)
        families = list(read(answer.text))
        assert len(families) > 15
        return {sample.name: family.type for family in families for sample in family.samples}

    plain = read("text/plain; version=0.0.4", parser.text_string_to_metric_families)
    open_metrics = read("application/openmetrics-text; version=1.0.0", openmetrics.text_string_to_metric_families)
    assert "unknown" not in plain.values()
    assert plain == {name: "gauge" if kind == "info" else kind for name, kind in open_metrics.items()}


def test_settings_are_those_of_the_program(tmp_path):
    known = set(re.findall(r"^(?:# )?([a-z-]+)(?: =|\s+#)", config(), re.M))
    assert {"max-queue", "rate-limit", "memory-limit"} <= known
    unit = DEPLOY / "systemd" / "remote-vae.toml"
    assert f"# {unit}" in config("--config", str(unit))
    mounted = tmp_path / "remote-vae.toml"
    mounted.write_text(manifest("ConfigMap")["data"]["remote-vae.toml"])
    assert 'on-large = "tile"' in config("--config", str(mounted))
    variables = set()
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            variables |= set(re.findall(r"\bREMOTE_VAE_[A-Z_]+", path.read_text()))
    assert {"REMOTE_VAE_HOST", "REMOTE_VAE_MODEL"} <= variables
    for variable in variables:
        assert variable.removeprefix("REMOTE_VAE_").lower().replace("_", "-") in known, variable


def test_a_value_comes_from_the_first_that_says_it(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('max-queue = 1\nmax-batch = 1\nport = 1\napi-keys = ["alice:0123456789abcdef"]\n')
    out = config("--config", str(file), "--max-queue=3", REMOTE_VAE_MAX_QUEUE="2", REMOTE_VAE_MAX_BATCH="2")
    lines = dict(re.findall(r"^(?:# )?([a-z-]+)( .*)$", out, re.M))
    for key, value, origin in [
        ("max-queue", "3", "--max-queue"),
        ("max-batch", "2", "REMOTE_VAE_MAX_BATCH"),
        ("port", "1", str(file)),
        ("host", '"127.0.0.1"', "default"),
        ("api-keys", '["alice:***"]', str(file)),
    ]:
        assert re.fullmatch(rf" = {re.escape(value)}\s+# {re.escape(origin)}", lines[key]), lines[key]
    assert "0123456789abcdef" not in out
    # What is printed is itself such a file.
    again = tmp_path / "again.toml"
    again.write_text(re.sub(r"^api-keys.*\n", "", out, flags=re.M))
    assert "max-queue = 3" in config("--config", str(again))
