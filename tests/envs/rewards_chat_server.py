"""A small server that speaks the chat completions protocol, well or badly, as a process.

The name of the model says how it behaves; `GET /count` tells how often each was asked.
Prints its port, then serves until it is killed.
"""

import json
import re
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ASKED = Counter()
GUARD = threading.Lock()


def completion(text, finish="stop", logprobs=None):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    choice |= {"finish_reason": finish, "logprobs": logprobs}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": {}}


def verdict_tokens(pairs):
    alternatives = [{"token": t, "logprob": p, "bytes": None} for t, p in pairs]
    return {"content": [alternatives[0] | {"top_logprobs": alternatives}]}


def judged(request):
    """A judge that gives as many points as the answer has words, ten at most."""
    text = request["messages"][-1]["content"]
    mark, answer = re.search(r"<answer-(\w+)>\n(.*)\n</answer-\1>", text, re.DOTALL).groups()
    points = min(10, len(answer.split()))
    return completion(f'It has {points} words ({mark}). The format was {{"score": N}}.\n'
                      f'{{"score": {points}}}')  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send(200, dict(ASKED))

    def do_POST(self):
        assert self.path == "/v1/chat/completions"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, _, option = request["model"].partition(":")
        with GUARD:
            ASKED[request["model"]] += 1
            asked = ASKED[request["model"]]
        getattr(self, f"be_{name}")(request, option, asked)

    def be_judge(self, request, option, asked):
        self.send(200, judged(request))

    def be_flaky(self, request, option, asked):  # fails twice, then works
        if asked <= 2:
            self.send(503, {"error": "loading"}, Retry_After="0")
        else:
            self.send(200, judged(request))

    def be_status(self, request, option, asked):
        self.send(int(option), {"error": f"you get {option}"}, Location="http://127.0.0.1:9/")

    def be_say(self, request, option, asked):
        self.send(200, completion(option))

    def be_mends(self, request, option, asked):  # its second sample is clear
        clear = request["seed"] > 0
        self.send(200, completion('{"score": 3}' if clear else "Hard to say."))

    def be_cut(self, request, option, asked):
        self.send(200, completion('{"score": 9}', finish="length"))

    def be_body(self, request, option, asked):
        self.send(200, option.encode())

    def be_huge(self, request, option, asked):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(b" " * 65536)
        except OSError:
            pass

    def be_drip(self, request, option, asked):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(600):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass

    def be_hangup(self, request, option, asked):
        self.close_connection = True

    def be_key(self, request, option, asked):
        self.send(200, completion(self.headers.get("Authorization", "none")))

    def be_likely(self, request, option, asked):
        assert request["logprobs"] is True and request["top_logprobs"] == 20
        pairs = [(t, p) for t, p in json.loads(option)]
        self.send(200, completion(pairs[0][0], logprobs=verdict_tokens(pairs)))

    def be_echo(self, request, option, asked):
        self.send(200, completion(json.dumps(request)))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    server.serve_forever()
