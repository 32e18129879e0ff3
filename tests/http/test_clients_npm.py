"""The clients openai and @anthropic-ai/sdk, as npm brings them, with a server: clients.mjs has the cases."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import support

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))
import npm_packages

KEY = "client-key"
PACKAGES = None


CASES = ["%s_%s" % (api, case) for api, cases in (
    ("openai", "chat stream text models errors abort"),
    ("anthropic", "message stream beta count models errors abort")) for case in cases.split()]


def start(server, *cases):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("OPENAI_", "ANTHROPIC_")) and "proxy" not in name.lower()}
    return subprocess.Popen(["node", str(HERE / "clients.mjs"), str(PACKAGES), "http://" + server.address, *cases],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Clients(support.ServerTest):
    arguments = ("--key", KEY, "--stir", 0.25)

    def check(self, process, *cases):
        output, _ = process.communicate(timeout=240)
        self.assertEqual(output, "".join("ok %s\n" % case for case in cases))

    def test_cases(self):
        self.check(start(self.server, *CASES), *CASES)

    def test_retries(self):
        for case in ("openai_retry", "anthropic_retry"):
            server = support.probe("--key", KEY, "--load", 60)
            process = start(server, case)
            self.until(lambda server=server: " 503 " in server.log(), 60)
            server.process.stdin.write(b"go on")
            server.process.stdin.flush()
            self.check(process, case)
            self.assertEqual(server.ready().end(), 0)

    def test_model(self):
        with tempfile.TemporaryDirectory() as folder:
            server = support.Server([support.OPTIONS.kvfold, "serve", "-m", support.OPTIONS.model, "--port", "0",
                                     "--store", folder, "--threads", "1", "--api-key", KEY]).ready()
            try:
                self.check(start(server, "model"), "model")
            finally:
                server.process.terminate()
                self.assertEqual(server.end(), 0)


if __name__ == "__main__":
    if not shutil.which("node"):
        npm_packages.skip("node is not here")
    try:
        PACKAGES = npm_packages.folder(HERE / "npm", support.OPTIONS.downloads, "server-clients", "the clients")
    except npm_packages.Missing as missing:
        npm_packages.skip(str(missing))
    support.main()
