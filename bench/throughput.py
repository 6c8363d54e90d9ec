"""How many pictures a second, with 1, 2, 4 and 8 requests in flight: remote-vae and a plain Python server, in turn.

    cargo build --release
    ~/.cache/remote-vae/venv/bin/python bench/throughput.py [--rounds N] [--pictures N] [--record FILE]

Both serve the embedded demonstration model, get the embedded latents of a 512×512 picture, and answer with its bytes, which
must be the same within 1. The Python server is what one writes in an afternoon: the standard library's threading server,
diffusers' `AutoencoderKL` on PyTorch in float32 and channels-last, one decode at a time behind a lock. All requests come
from one process, over connections that are kept.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "bench")]
IN_FLIGHT = (1, 2, 4, 8)
SCALING, SHIFT = 0.3617, 0.0693


def python_server(threads: int, connection, folder: Path = ROOT / "assets" / "demo-vae") -> None:
    """Serves the model in `folder` until its process is ended; sends its port first."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from urllib.parse import parse_qs, urlsplit

    import torch
    from compare import round8
    from diffusers import AutoencoderKL

    torch.set_num_threads(threads)
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()
    vae.to(memory_format=torch.channels_last)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            body = bytearray(self.rfile.read(int(self.headers["Content-Length"])))
            latents = torch.frombuffer(body, dtype=torch.float16).reshape([int(n) for n in query["shape"]]).float()
            with lock, torch.inference_mode():
                pixels = vae.decode(latents / float(query["scaling_factor"][0]) + float(query.get("shift_factor", [0])[0])).sample
            answer = round8(pixels).tobytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    connection.send(server.server_port)
    server.serve_forever()


def load(url: str, in_flight: int, pictures: int) -> tuple[dict, bytes]:
    """Sends `pictures` requests, `in_flight` at a time."""
    import requests
    from safetensors.numpy import load_file

    latents = load_file(ROOT / "assets" / "demo-latents" / "astronaut.safetensors")["latents"].astype("float16")
    query = {"shape": list(latents.shape), "dtype": "float16", "output_type": "pt", "partial_postprocess": "True"}
    query |= {"scaling_factor": SCALING, "shift_factor": SHIFT}
    headers = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}
    body = latents.tobytes()
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=in_flight))

    def one(_) -> tuple[float, bytes]:
        start = time.perf_counter()
        answer = session.post(url, params=query, headers=headers, data=body)
        answer.raise_for_status()
        return time.perf_counter() - start, answer.content

    with ThreadPoolExecutor(in_flight) as workers:
        list(workers.map(one, range(in_flight)))  # connections and caches
        start = time.perf_counter()
        found = list(workers.map(one, range(pictures)))
        seconds = time.perf_counter() - start
    assert all(content == found[0][1] for _, content in found), "the same latents gave two pictures"
    waits = [wait for wait, _ in found]
    row = {"pictures_per_second": round(pictures / seconds, 3), "median_seconds": round(statistics.median(waits), 3)}
    return row | {"longest_seconds": round(max(waits), 3)}, found[0][1]


def main() -> None:
    from video import about, largest_difference
    from service import serving

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=24, help="requests of each measurement (24)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path, help="default: bench/records/throughput-PROCESSOR-DATE.json")
    args = parser.parse_args()

    record = about(args.threads) | {"model": "the demonstration model, 512×512", "pictures": args.pictures, "rounds": []}
    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    python = multiprocessing.get_context("spawn").Process(target=python_server, args=(args.threads, theirs), daemon=True)
    python.start()
    with tempfile.TemporaryDirectory() as folder:
        with serving([f"--threads={args.threads}"], Path(folder) / "log") as service:
            urls = {"remote-vae": service.url, "python": f"http://127.0.0.1:{mine.recv()}/"}
            for number in range(args.rounds):
                row = {}
                for in_flight in IN_FLIGHT:
                    order = list(urls) if number % 2 == 0 else list(urls)[::-1]
                    found = {name: load(urls[name], in_flight, args.pictures) for name in order}
                    difference = largest_difference(*(found[name][1] for name in urls))
                    assert difference <= 1, f"the pictures differ by up to {difference}, so the times do not count"
                    row[str(in_flight)] = {name: found[name][0] for name in urls}
                record["rounds"].append(row)
                print(f"round {number + 1} of {args.rounds}: {row}", file=sys.stderr)
    python.terminate()

    name = re.sub(r"[^a-z0-9]+", "-", f"throughput {record['processor']} {os.cpu_count()} cores {date.today()}".lower())
    path = args.record or ROOT / "bench" / "records" / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"remote-vae {record['version']} ({record['commit']}) and PyTorch {record['pytorch']} on {record['processor']}\n")
    print("| in flight | remote-vae, pictures/s (min–max) | a request takes | Python server | a request takes | ratio |")
    print("|--:|--:|--:|--:|--:|--:|")
    for in_flight in map(str, IN_FLIGHT):
        cells = [in_flight]
        for name in urls:
            rates = [row[in_flight][name]["pictures_per_second"] for row in record["rounds"]]
            waits = [row[in_flight][name]["median_seconds"] for row in record["rounds"]]
            cells.append(f"{statistics.median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f})")
            cells.append(f"{statistics.median(waits):.2f} s")
        rates = [[row[in_flight][name]["pictures_per_second"] for name in urls] for row in record["rounds"]]
        ratios = [ours / theirs for ours, theirs in rates]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
