"""An OAuth server on this machine, over TLS under an authority of its own: a token endpoint that proves PKCE, hands
refresh tokens out for one use, and takes tokens back.

`token_endpoint.py FOLDER` writes the authority's certificate to `FOLDER/ca.pem` and says where it listens. Each line
`consent CHALLENGE` is answered with a code for that challenge, and `asked` with the grants that were asked for.
"""

import base64
import hashlib
import http.server
import json
import pathlib
import sys
import threading
import urllib.parse

from provider import certified

CLIENT = "Basic " + base64.b64encode(b"caracal:client-secret-1").decode()

codes: dict = {}
state = {"issued": 0, "refresh": None}
asked: list = []


def issue(kind: str, life: int) -> dict:
    state["issued"] += 1
    number = state["issued"]
    answer = {"access_token": f"{kind}-{number}", "token_type": "Bearer", "expires_in": life}
    if kind == "user":
        state["refresh"] = f"refresh-{number}"
        answer["refresh_token"] = state["refresh"]
    return answer


def challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def answer(path: str, form: dict) -> tuple:
    """The status and the body for a client that proved itself."""
    if path == "/revoke":
        taken = form.get("token") == state["refresh"]
        state["refresh"] = None
        return (200, {}) if taken else (400, {"error": "invalid_request"})
    match form.get("grant_type"):
        case "client_credentials":
            return 200, issue("service", 3600)
        case "authorization_code" if codes.pop(form.get("code"), None) == challenge(form.get("code_verifier", "")):
            # So short that it has to be renewed before it is used.
            return 200, issue("user", 5)
        case "refresh_token" if form.get("refresh_token") == state["refresh"]:
            return 200, issue("user", 3600)
    return 400, {"error": "invalid_grant"}


class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = dict(urllib.parse.parse_qsl(text))
        asked.append(form.get("grant_type", self.path))
        known = self.headers.get("Authorization") == CLIENT
        status, body = answer(self.path, form) if known else (401, {"error": "invalid_client"})
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def main() -> None:
    context = certified(pathlib.Path(sys.argv[1]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(f"https://localhost:{server.server_port}"), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["consent", wanted]:
                code = f"code-{len(codes)}"
                codes[code] = wanted
                print(json.dumps(code), flush=True)
            case ["asked"]:
                print(json.dumps(asked), flush=True)


if __name__ == "__main__":
    main()
