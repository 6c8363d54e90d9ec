"""The server as a service: what it says of itself, and how it ends."""

import os
import pty
import re
import signal
import threading
import time

import pytest
import requests
from models import REAL
from place import binary, clean_environment
from service import Service, serving

BINARY = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}


@pytest.mark.parametrize("slash", ["", "/"])
def test_health_and_readiness(server, slash):
    answer = requests.get(f"{server.url}/health{slash}", timeout=10)
    assert (answer.status_code, answer.text) == (200, "Ok")
    assert requests.get(f"{server.url}/ready{slash}", timeout=10).status_code == 200
    answer = requests.get(server.url + slash, headers={"Accept": "*/*"}, timeout=10)
    assert (answer.status_code, answer.text) == (200, "Ok")


def test_models(server, demo):
    text = requests.get(f"{server.url}/models", timeout=10).json()
    served = text["models"]
    assert [model["name"] for model in served] == [model.name for model in REAL] + ["demo"]
    for model, said in zip([*REAL, demo], served, strict=True):
        assert said["latent_channels"] == model.latent_channels
        assert said["scaling_factor"] == pytest.approx(model.scaling_factor)
        assert said.get("shift_factor") == (model.shift_factor and pytest.approx(model.shift_factor))


def query(side: int) -> dict:
    return {"shape": [1, 16, side, side], "dtype": "float16", "output_type": "pt", "partial_postprocess": True}


def send_in_background(url: str, side: int) -> tuple[threading.Thread, list]:
    """A decode of side x side latents on a thread of its own; its outcome is put into the list."""
    outcome = []

    def send():
        try:
            body = bytes(16 * side * side * 2)
            outcome.append(requests.post(url, params=query(side), headers=BINARY, data=body, timeout=300))
        except requests.RequestException as error:
            outcome.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    return thread, outcome


def test_a_stop_signal_lets_accepted_requests_finish(tmp_path):
    with serving(["--model=demo=demo"], tmp_path / "log") as service:
        running = [send_in_background(service.url, 128) for _ in range(4)]
        time.sleep(0.5)
        assert not all(outcome for _, outcome in running), "some request must be in flight, or this tests nothing"
        stopped = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - stopped < 120
        assert "stopped: every accepted request is answered" in service.log.read_text().splitlines()[-1]
        for thread, outcome in running:
            thread.join(10)
            (answer,) = outcome
            assert isinstance(answer, requests.Response), answer
            assert answer.status_code == 200
            assert answer.headers["shape"] == "[1, 1024, 1024, 3]"
            assert len(answer.content) == 3 * 1024 * 1024
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{service.url}/health", timeout=5)


def test_a_full_queue_says_when_to_come_back(tmp_path):
    """One running, one waiting: of twelve at once most are turned away at once, and those let in are served."""
    with serving(["--model=demo=demo", "--max-queue=1"], tmp_path / "log") as service:
        running = [send_in_background(service.url, 100) for _ in range(12)]
        for thread, _ in running:
            thread.join(300)
        answers = [outcome[0] for _, outcome in running]
        served = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(served) >= 2
        assert refused, "twelve decodes were faster than twelve requests"
        for answer in refused:
            assert answer.status_code == 429
            assert "queue" in answer.json()["error"]
            assert int(answer.headers["Retry-After"]) >= 1
        # The server is as good as before.
        thread, outcome = send_in_background(service.url, 2)
        thread.join(60)
        assert outcome[0].status_code == 200


def test_a_second_signal_ends_it_at_once(tmp_path):
    service = Service(["--model=demo=demo"], tmp_path / "log")
    try:
        service.wait_until_ready()
        running = [send_in_background(service.url, 128) for _ in range(8)]
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert service.process.poll() is None, "the work was done already, or this tests nothing"
        said = service.log.read_text()
        assert re.search(r"stopping: [1-8] requests? (is|are) finished first, for at most \S+ \(--drain-timeout\); a second Ctrl-C", said), said
        stopped = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 130
        assert time.monotonic() - stopped < 2
        for thread, _ in running:
            thread.join(10)
        assert any(not isinstance(outcome[0], requests.Response) for _, outcome in running)
    finally:
        service.process.kill()


@pytest.mark.parametrize("starter", [[], ["nohup"]])
def test_a_closed_terminal_ends_it_as_other_programs(tmp_path, starter):
    """SIGHUP reads files again; but who closes the window does not mean that, unless it was started by nohup."""
    command = [*starter, str(binary()), "serve", "--port=0"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe(command[0], command, clean_environment())

    def ended(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert os.waitstatus_to_exitcode(status) == 0
                return True
            time.sleep(0.02)
        return False

    # nohup sends what would go to the terminal there.
    said, out = b"", tmp_path / "nohup.out"
    while b"Stop with" not in said:
        said = (out.read_bytes() if out.exists() else b"") if starter else said + os.read(terminal, 1024)
        time.sleep(0.01)
    os.close(terminal)
    if not starter:
        assert ended(10)
        return
    assert not ended(1)
    os.kill(pid, signal.SIGTERM)
    assert ended(10)
