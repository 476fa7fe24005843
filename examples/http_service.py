"""A service for the `http` verifier, with nothing but the standard library:

python examples/http_service.py 8100
rlvr score http completions.jsonl --output scores.jsonl --set params.url=http://127.0.0.1:8100
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        line = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = line["completion"].endswith(line["problem"]["answer"])
        verdict = {"status": "correct" if right else "incorrect", "reward": float(right)}
        body = json.dumps(verdict).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Judge).serve_forever()
