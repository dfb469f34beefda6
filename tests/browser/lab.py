"""JupyterLab on loopback and a real browser on it: open a notebook, run it, use its widgets, look at pixels."""

import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--no-first-run", "--disable-sync", "--hide-scrollbars"]  # fmt: skip
# no news, no update check, no autosave, and every cell in the page: by default those out of sight are left out of it
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
NOTEBOOK = "window.jupyterapp.shell.currentWidget"
IDLE = f"() => {NOTEBOOK}?.sessionContext?.session?.kernel?.status === 'idle'"
ALL_RUN = f"""() => [...{NOTEBOOK}.content.model.cells].every(cell => cell.type !== 'code'
    || !cell.sharedModel.source.trim() || cell.executionCount) && ({IDLE})()"""
ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
FAULTS = f'{ERROR}, [data-mime-type="application/vnd.jupyter.stderr"]'
STOPPED = f"() => ({ALL_RUN})() || (({IDLE})() && document.querySelector('{ERROR}') !== null)"


@contextmanager
def jupyter_lab(root: Path, home: Path):
    """JupyterLab serving ``root`` with folders of its own below ``home``; yields (base address, token)."""
    for plugin, value in SETTINGS.items():
        path = home / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "IPYTHONDIR": "ipython"}  # fmt: skip
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}", "--allow-root",
               "--LabApp.news_url=", "--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True"]
    with open(home / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                  env={**os.environ, **{k: str(home / v) for k, v in folders.items()}})  # fmt: skip
    base = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(server, f"{base}/api/status?token={token}", home / "lab.log")
        yield base, token
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for_server(server, address: str, log: Path, seconds: float = 90) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(log.read_text())
        try:
            direct.open(address, timeout=2).read()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"JupyterLab did not answer in {seconds} s:\n{log.read_text()}")


@contextmanager
def browser_page(base: str):
    """A page of Debian's chromium; yields (page, errors of the page, requests that left the machine)."""
    from playwright.sync_api import sync_playwright

    errors, strangers = [], []
    own = (base, base.replace("http", "ws"), "data:", "blob:")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(own) else strangers.append(request.url))
        yield page, errors, strangers
        browser.close()


def open_and_run(page, base: str, token: str, name: str, seconds: float) -> None:
    """Open a notebook alone in the page and run all of its cells, or those up to the first that raises."""
    page.goto(f"{base}/doc/tree/{name}?reset&token={token}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
    page.wait_for_function(IDLE, timeout=60_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(STOPPED, timeout=1000 * seconds)


def faults(page) -> list[str]:
    """Every error and every line on stderr that the page shows now; progress bars, also wiped ones, left out."""
    return [text for text in page.locator(FAULTS).all_inner_texts()
            if text.strip() and "it/s" not in text and "image/s" not in text]  # fmt: skip


def with_parameters(notebook: dict, **values) -> dict:
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]) + "\n" + "\n".join(f"{k} = {v!r}" for k, v in values.items())
    return notebook


def pixels(screen) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(screen.screenshot())).convert("L"), int)


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of pixels that differ; 1 when the picture changed its size."""
    return 1.0 if before.shape != after.shape else float((abs(before - after) > 16).mean())
