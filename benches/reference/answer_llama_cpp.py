"""Answers to many prompts by llama.cpp's server, as many at a time as the key/value cache of the other programs holds.

    benches/llama_cpp.sh FOLDER
    python benches/reference/answer_llama_cpp.py --llama-cpp FOLDER --model FILE.gguf --prompts FILE --out FILE [--batch-tokens 16384] [--threads 2]

The prompts are those of `answer.py`. Weights of all types are converted to f32 first, which is what the others compute in. The server continues
what is under way while it reads what is new, and a prompt starts from what it has in common with one that was answered before it. It chooses
which token ends a text itself.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ADDRESS = ("127.0.0.1", 8917)


def post(path, body):
    request = urllib.request.Request(
        "http://{}:{}{}".format(*ADDRESS, path), json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    # The server is on this machine, whatever proxy there is for others.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=3600) as answer:
        return json.load(answer)


def wait_for(server):
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            post("/tokenize", {"content": "a"})
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--llama-cpp", required=True, type=pathlib.Path)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--prompts", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--batch-tokens", type=int, default=16384)
    arguments.add_argument("--threads", type=int, default=2)
    arguments = arguments.parse_args()
    request = json.load(open(arguments.prompts))
    prompts, new = request["prompts"], request["max_new_tokens"]
    longest = max(map(len, prompts)) + new
    rows = max(1, arguments.batch_tokens // longest)
    programs = arguments.llama_cpp / "bin"
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/f32.gguf"
        convert = [programs / "llama-quantize", "--allow-requantize", arguments.model, model, "F32"]
        subprocess.run(convert, check=True, capture_output=True)
        flags = f"--ctx-size {rows * longest} --parallel {rows} --threads {arguments.threads} --threads-batch {arguments.threads}"
        flags += f" --host {ADDRESS[0]} --port {ADDRESS[1]} --cache-type-k f32 --cache-type-v f32 --no-webui"
        command = [programs / "llama-server", "--model", model, *flags.split()]
        with open(f"{folder}/log", "w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                wait_for(server)

                def answer(prompt):
                    body = {"prompt": prompt, "n_predict": new, "temperature": 0, "return_tokens": True, "cache_prompt": True}
                    return post("/completion", body)["tokens"]

                # In the order of their tokens, in which those that begin alike follow each other.
                order = sorted(range(len(prompts)), key=lambda index: prompts[index])
                started = time.perf_counter()
                with concurrent.futures.ThreadPoolExecutor(rows) as pool:
                    found = list(pool.map(answer, [prompts[index] for index in order]))
                print(f"seconds {time.perf_counter() - started}")
            finally:
                server.kill()
                server.wait()
    answers = [None] * len(prompts)
    for index, tokens in zip(order, found):
        answers[index] = tokens
    json.dump(answers, open(arguments.out, "w"))


main()
