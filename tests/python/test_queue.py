"""The queue: order, bounds, failures, and ends."""

import threading
import time

import numpy as np
import pytest
import remote_vae
from PIL import Image
from place import PHOTOGRAPH
from remote_vae import DecodeQueue, EncodeQueue, RemoteVae, Retry
from standing_in import PIXEL, refusal

ONE = np.zeros((1, 4, 1, 1), np.float32)


def numbered(number: int) -> np.ndarray:
    return np.full((1, 4, 1, 1), number, np.float32)


def number_of(body: bytes) -> int:
    return int(np.frombuffer(body, np.float32)[0])


def test_results_come_in_order(server):
    """Large and small ones, so that they are done in another order."""
    latents = [np.random.default_rng(n).standard_normal((1, 16, 24 if n % 3 == 0 else 2, 4), np.float32) for n in range(12)]
    with RemoteVae(f"{server.url}/demo") as vae:
        expected = [vae.decode(one, output_type="pt") for one in latents]
    with DecodeQueue(f"{server.url}/demo", output_type="pt") as queue:
        results = list(queue.map(latents))
    assert [finished.tag for finished in results] == list(range(12))
    assert all(np.array_equal(finished.result(), one) for finished, one in zip(results, expected))
    assert queue.counters == remote_vae.Counters(submitted=12, succeeded=12)


def test_a_producer_and_a_consumer(server):
    queue = DecodeQueue(f"{server.url}/demo", capacity=3)

    def produce():
        with queue:
            for name in ["a fox", "an owl", "a fox again"] * 4:
                queue.submit(np.zeros((1, 16, 2, 2), np.float16), tag=name, image_format="png")

    producer = threading.Thread(target=produce)
    producer.start()
    results = list(queue)
    producer.join()
    assert [finished.tag for finished in results] == ["a fox", "an owl", "a fox again"] * 4
    assert {finished.result().format for finished in results} == {"PNG"}


def test_latents_may_be_overwritten_once_they_are_submitted(stand_in):
    server = stand_in(PIXEL)
    latents = numbered(0)
    with DecodeQueue(server.url, output_type="pt") as queue:
        for number in range(8):
            latents[:] = number
            queue.submit(latents)
    assert sorted(number_of(request.body) for request in server.received) == list(range(8))


def test_it_is_bounded(stand_in):
    hold = threading.Event()
    server = stand_in(PIXEL)
    server.wait = hold.wait
    made = []

    def generate():
        for number in range(9):
            made.append(number)
            yield numbered(number)

    queue = DecodeQueue(server.url, in_flight=2, capacity=4, output_type="pt")
    results = []
    consumer = threading.Thread(target=lambda: results.extend(queue.map(generate())))
    consumer.start()
    while len(server.received) < 2:
        time.sleep(0.005)
    time.sleep(0.1)
    # Four are held, of which two are under way; the fifth has been made and waits.
    assert len(made) == 5 and len(server.received) == 2
    assert queue.counters == remote_vae.Counters(submitted=4, waiting=2, in_flight=2)
    hold.set()
    consumer.join()
    assert [finished.tag for finished in results] == list(range(9))


def test_submit_waits_until_results_are_read(stand_in):
    queue = DecodeQueue(stand_in(PIXEL).url, capacity=2, output_type="pt")
    submitted = []

    def produce():
        for number in range(3):
            queue.submit(ONE, tag=number)
            submitted.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    time.sleep(0.2)
    assert submitted == [0, 1]
    assert next(queue).tag == 0
    producer.join()
    queue.close()
    assert [finished.tag for finished in queue] == [1, 2]


def test_results_come_while_the_next_latents_are_made(stand_in):
    events = []

    def generate():
        for number in range(3):
            events.append(f"make {number}")
            time.sleep(0.1)
            yield ONE

    with DecodeQueue(stand_in(PIXEL).url, output_type="pt") as queue:
        for finished in queue.map(generate()):
            events.append(f"read {finished.tag}")
    assert events.index("read 0") < events.index("make 2")


def test_one_failure_is_that_items_failure(stand_in):
    server = stand_in(PIXEL, refusal(422, "no such latents"), PIXEL)
    with DecodeQueue(server.url, in_flight=1, output_type="pt") as queue:
        results = list(queue.map([ONE] * 3))
    assert [finished.error is None for finished in results] == [True, False, True]
    with pytest.raises(remote_vae.RefusedError, match="no such latents"):
        results[1].result()
    assert queue.counters == remote_vae.Counters(submitted=3, succeeded=2, failed=1)
    # What cannot be sent never gets into the queue.
    with DecodeQueue(server.url) as queue, pytest.raises(remote_vae.InputError, match="NaN"):
        queue.submit(numbered(0) * np.nan)


def test_leaving_waits_and_keeps_the_results(stand_in):
    with DecodeQueue(stand_in(PIXEL).url, output_type="pt") as queue:
        for number in range(4):
            queue.submit(ONE, tag=number)
    assert queue.counters.succeeded == 4
    assert [finished.tag for finished in queue] == [0, 1, 2, 3]
    with pytest.raises(remote_vae.ClosedError):
        queue.submit(ONE)


def test_leaving_by_an_exception_cancels(stand_in):
    hold = threading.Event()
    server = stand_in(PIXEL)
    server.wait = lambda: hold.wait(10)
    begun = time.monotonic()
    with pytest.raises(KeyError), DecodeQueue(server.url, in_flight=2, output_type="pt") as queue:
        for _ in range(6):
            queue.submit(ONE)
        while len(server.received) < 2:
            time.sleep(0.005)
        raise KeyError
    assert time.monotonic() - begun < 5 and list(queue) == []
    hold.set()
    time.sleep(0.1)
    assert len(server.received) == 2


def test_a_submit_that_waits_ends_when_the_queue_is_cancelled(stand_in):
    queue = DecodeQueue(stand_in(PIXEL).url, capacity=1, output_type="pt")
    queue.submit(ONE)
    ended = []

    def produce():
        with pytest.raises(remote_vae.ClosedError):
            queue.submit(ONE)
        ended.append(True)

    producer = threading.Thread(target=produce)
    producer.start()
    queue.cancel()
    producer.join(5)
    assert ended == [True]


def test_cancelling_ends_an_iteration_that_waits(stand_in):
    """The item that is waited for, too: its request ends."""
    hold = threading.Event()
    server = stand_in(PIXEL)
    server.wait = lambda: hold.wait(10)
    queue = DecodeQueue(server.url, output_type="pt")
    queue.submit(ONE)
    results, ended = [], threading.Event()

    def consume():
        results.extend(queue)
        ended.set()

    threading.Thread(target=consume, daemon=True).start()
    while not server.received:
        time.sleep(0.005)
    queue.cancel()
    assert ended.wait(5) and results == []
    hold.set()


def test_pictures_of_all_kinds_are_encoded_in_order(server, tmp_path):
    photograph = Image.open(PHOTOGRAPH).convert("RGB").resize((64, 48))
    photograph.save(tmp_path / "photograph.png")
    values = np.asarray(photograph, np.float32).transpose(2, 0, 1)[None] / 255
    pictures = [photograph, tmp_path / "photograph.png", (tmp_path / "photograph.png").read_bytes(), values, values[:, :, ::2]]
    options = {"do_scaling": True, "sample_mode": "argmax", "out_dtype": "float32"}
    with RemoteVae(f"{server.url}/sd") as vae:
        expected = [vae.encode(picture, **options) for picture in pictures]
    with EncodeQueue(f"{server.url}/sd", in_flight=2, capacity=3, **options) as queue:
        results = list(queue.map(pictures))
    assert [finished.tag for finished in results] == [0, 1, 2, 3, 4]
    assert all(np.array_equal(finished.result(), one) for finished, one in zip(results, expected))
    assert results[0].result().shape == (1, 4, 6, 8) and results[4].result().shape == (1, 4, 3, 8)
    assert queue.counters == remote_vae.Counters(submitted=5, succeeded=5)


def test_an_encode_queue_by_hand(server, tmp_path):
    """A producer and a consumer, an option of one item, and failures: of an item, and of what cannot be sent."""
    values = np.full((1, 3, 8, 8), 0.5, np.float32)
    with EncodeQueue(f"{server.url}/sd", seed=3) as queue:
        queue.submit(values, tag="a")
        queue.submit(values, tag="b", seed=4)
        queue.submit(b"no picture", tag="c")
        with pytest.raises(FileNotFoundError):
            queue.submit(tmp_path / "missing.png")
        with pytest.raises(remote_vae.InputError, match="NaN"):
            queue.submit(values * np.nan)
    a, b, c = queue
    assert [one.tag for one in (a, b, c)] == ["a", "b", "c"]
    assert not np.array_equal(a.result(), b.result())
    with pytest.raises(remote_vae.RefusedError):
        c.result()
    assert queue.counters == remote_vae.Counters(submitted=3, succeeded=2, failed=1)


def test_several_servers_at_once(stand_in):
    servers = [stand_in(PIXEL) for _ in range(3)]
    with DecodeQueue(RemoteVae([one.url for one in servers], retry=Retry.never()), output_type="pt") as queue:
        assert all(finished.error is None for finished in queue.map([ONE] * 12))
    assert all(len(one.received) >= 2 for one in servers)


def test_sizes_that_make_no_sense():
    for sizes in [{"in_flight": 0}, {"capacity": 0}]:
        with pytest.raises(ValueError, match="at least 1"):
            DecodeQueue("http://127.0.0.1:1/", **sizes)
