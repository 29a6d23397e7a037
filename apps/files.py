"""Downloads: the report and a run's bundle, to the user who owns them and to nobody else."""

from __future__ import annotations

import asyncio
import io
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.web import RequestHandler

from workbench.apps.auth import COOKIE, Identity
from workbench.errors import StoreError, WorkbenchError

if TYPE_CHECKING:
    from workbench.apps.hub import Hub, Workspace
    from workbench.store import Run

_UNPACKED_BYTES = 256 << 20
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _File(RequestHandler):
    def initialize(self, hub: Hub, identity: Identity) -> None:
        self.hub, self.identity = hub, identity

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")

    def runs(self) -> list[Run]:
        """The asked-for runs of this user; 403 without a proven user, 404 for another's run."""
        user = self.identity.user_of(self.get_cookie(COOKIE))
        workspace = self.hub.peek(user) if user else None
        if workspace is None:
            self.set_status(403)
            raise WorkbenchError("open the dashboard first")
        found = [workspace.find(i) for i in self.get_argument("runs", "").split(",") if i]
        runs = [r for r in found if r is not None]
        if not runs or len(runs) != len(found):
            self.set_status(404)
            raise WorkbenchError("there is no such run among yours")
        return runs

    def refuse(self, error: WorkbenchError) -> None:
        if self.get_status() == 200:
            self.set_status(500)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(str(error))


class Report(_File):
    """``GET report?runs=a,b``: one self-contained HTML file; the first is the baseline."""

    async def get(self) -> None:
        try:
            page = await asyncio.to_thread(report, self.runs())
        except WorkbenchError as error:
            self.refuse(error)
            return
        # A report is a document of its own: saved, never rendered in this origin.
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="workbench-report.html"')
        self.finish(page)


class Bundle(_File):
    """``GET bundle?runs=a``: the run's folder as a zip."""

    async def get(self) -> None:
        try:
            run = self.runs()[0]
            data = await asyncio.to_thread(zipped, run)
        except WorkbenchError as error:
            self.refuse(error)
            return
        self.set_header("Content-Type", "application/zip")
        self.set_header("Content-Disposition", f'attachment; filename="{_safe(run.id)}.zip"')
        self.finish(data)


def report(runs: list[Run]) -> bytes:
    """The report as bytes."""
    from workbench.report import write

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write(runs, path)
        return path.read_bytes()


def zipped(run: Run) -> bytes:
    """The finished bundle as one zip."""
    from workbench.store import export_bundle

    with tempfile.TemporaryDirectory() as folder:
        return export_bundle(run, Path(folder) / "bundle.zip").read_bytes()


def add_bundle(data: bytes, workspace: Workspace) -> Run:
    """An uploaded bundle becomes one of the user's runs; a bad one is refused with one sentence."""
    from workbench.store import import_bundle

    workspace.check_size(len(data))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(m.file_size for m in archive.infolist()) > _UNPACKED_BYTES:
                raise StoreError("the bundle unpacks to more than 256 MiB, which this server refuses")
    except zipfile.BadZipFile:
        raise StoreError("the file is not a zip; upload the bundle that the dashboard or "
                         "`workbench export` wrote") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.zip"
        path.write_bytes(data)
        return import_bundle(path, workspace.session.store)


def _safe(name: str) -> str:
    return name if _ID.fullmatch(name) else "run"


def routes(hub: Hub, identity: Identity) -> list[tuple[Any, ...]]:
    """The handlers for the server."""
    given = {"hub": hub, "identity": identity}
    return [(r"/report", Report, given), (r"/bundle", Bundle, given)]
