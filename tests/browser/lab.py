"""JupyterLab on loopback, a real browser on it, and a notebook that runs in both."""

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
from typing import NamedTuple

import psutil

# a name that is not this machine's leads nowhere: what a page asks of strangers is noticed, and never sent
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# no news, no update check, no autosave, and every cell in the page: by default those out of sight are left out of it
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
}
EMPTY_VIDEO = "net::ERR_REQUEST_RANGE_NOT_SATISFIABLE"  # what chromium says of a Video widget without a video as yet
NOBODY = "http://127.0.0.1:9"  # the proxy of whatever a kernel downloads: nobody listens, so that the cell fails
OFFLINE = {
    "http_proxy": NOBODY,
    "https_proxy": NOBODY,
    "HTTP_PROXY": NOBODY,
    "HTTPS_PROXY": NOBODY,
    "no_proxy": "127.0.0.1,localhost",
    "NO_PROXY": "127.0.0.1,localhost",
}

# --- in the page's own language ---------------------------------------------------------------------------------
NOTEBOOK = "window.jupyterapp?.shell?.currentWidget"
IDLE = f"() => {NOTEBOOK}?.sessionContext?.session?.kernel?.status === 'idle'"
# what was asked of the kernel and is not answered, and what it complained of, wherever that is shown, if at all
LISTEN = f"""() => {{
    Object.assign(window, {{asked: new Set(), errors: [], stderr: ''}});
    {NOTEBOOK}.sessionContext.session.kernel.anyMessage.connect((_, {{msg, direction}}) => {{
        const type = msg.header.msg_type, said = msg.content;
        if (direction === 'send' && msg.channel === 'shell') asked.add(msg.header.msg_id);
        if (type === 'status' && said.execution_state === 'idle') asked.delete(msg.parent_header.msg_id);
        if (type === 'error') errors.push(said.ename + ': ' + said.evalue);
        if (type === 'stream' && said.name === 'stderr') stderr += said.text;
    }});
}}"""
RUN_ALL = """() => {
    window.ran = false;
    window.jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ran = true; });
}"""
ANSWERED = """() => window.asked.size === 0 && [...document.images].every(image => image.complete)
    && [...document.querySelectorAll('.jp-OutputArea-output')].every(one => one.innerText !== 'Loading widget...')"""


class Lab(NamedTuple):
    """A running JupyterLab."""

    address: str
    token: str
    pid: int


@contextmanager
def jupyter_lab(root: Path, home: Path):
    """JupyterLab serving ``root`` with folders of its own below ``home``; yields a ``Lab``."""
    for plugin, value in SETTINGS.items():
        path = home / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--allow-root",
        "--LabApp.news_url=",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
    ]
    own = {name: str(home / folder) for name, folder in FOLDERS.items()}
    with open(home / "lab.log", "w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **OFFLINE, **own}
        )
    lab = Lab(f"http://127.0.0.1:{port}", token, server.pid)
    try:
        wait_for_server(server, f"{lab.address}/api/status?token={token}", home / "lab.log")
        yield lab
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


def kernel_seconds(lab: Lab) -> float:
    """The CPU seconds so far of the kernel that started last, and of all that it has started."""
    kernel = max(psutil.Process(lab.pid).children(), key=lambda process: process.create_time())
    return sum(sum(process.cpu_times()[:4]) for process in (kernel, *kernel.children(recursive=True)))


@contextmanager
def chromium():
    """Debian's chromium through Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def new_page(browser, base: str):
    """An empty page; yields (page, what went wrong in it: errors, also caught ones, and requests to strangers)."""
    page, faults = browser.new_page(viewport={"width": 1400, "height": 1000}), []
    own = (base, base.replace("http", "ws"), "data:", "blob:")

    def asks(something):
        if not something.url.startswith(own):
            faults.append(f"leaves the machine: {something.url}")

    def says(message):
        if message.type == "error" and EMPTY_VIDEO not in message.text:
            faults.append(f"console: {message.text} ({message.location['url']})")

    page.on("pageerror", lambda error: faults.append(f"error in the page: {error}"))
    page.on("console", says)
    page.on("request", asks)
    page.on("websocket", asks)
    page.set_default_timeout(60_000)
    try:
        yield page, faults
    finally:
        page.close()


@contextmanager
def notebook_run(page, lab: Lab, name: str, seconds: float = 900):
    """A notebook alone in the page, after all of its cells have run, or those up to the first that raises."""
    try:
        page.goto(f"{lab.address}/doc/tree/{name}?reset&token={lab.token}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.wait_for_function(IDLE)
        page.evaluate(LISTEN)
        page.evaluate(RUN_ALL)
        page.wait_for_function("() => window.ran", timeout=1000 * seconds)
        page.wait_for_function(ANSWERED)
        yield
    finally:
        page.evaluate(f"() => {NOTEBOOK}?.sessionContext?.shutdown()")  # its memory is for the next one
