"""A container store of a test's own: buildah builds, podman runs, no daemon and no registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Store:
    """Images and containers under `folder`, and nowhere else."""

    folder: Path

    def build(self, dockerfile: Path, context: Path, tag: str, *args: str, timeout_s: float = 600) -> str:
        """Build on stand-ins for public images and the uv cache of this machine. Returns what it printed."""
        return self._buildah(
            "build", "--isolation", "chroot", "--network", "host", "--format", "docker",
            "--volume", f"{_printed('uv', 'cache', 'dir')}:/root/.cache/uv",
            "--build-arg", "BASE_IMAGE=localhost/base", "--build-arg", "UV_IMAGE=localhost/uv",
            *args, "--file", str(dockerfile), "--tag", f"localhost/{tag}", str(context),
            timeout_s=timeout_s,
        )  # fmt: skip

    def run(self, tag: str, *args: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run to its end, within ten minutes."""
        return subprocess.run(
            [*self._podman("run", "--rm"), *RUN_OPTIONS, *options, f"localhost/{tag}", *args],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    @contextmanager
    def started(self, tag: str, *, options: tuple[str, ...] = ()) -> Iterator[str]:
        """Run in the background; the name of the container."""
        name = f"started-{tag}"
        start = [*self._podman("run", "--detach", "--name", name), *RUN_OPTIONS, *options, f"localhost/{tag}"]
        done = subprocess.run(start, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        try:
            yield name
        finally:
            self.podman("rm", "--force", "--ignore", "--time", "0", name)

    def podman(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._podman(*args), capture_output=True, text=True, timeout=120)

    def files(self, tag: str) -> set[str]:
        """The names of the files in an image, relative to its root."""
        container = self._buildah("from", "--pull-never", f"localhost/{tag}").split()[-1]
        mounted = Path(self._buildah("mount", container).split()[-1])
        found = {p.relative_to(mounted).as_posix() for p in mounted.rglob("*") if not p.is_dir()}
        self._buildah("rm", container)
        return found

    def add_base_images(self) -> None:
        """localhost/base: Debian's Python and nothing else; localhost/uv: the uv of this machine as /uv."""
        tar = self.folder / "base.tar"
        packages = "--include=python3.11,ca-certificates"
        _printed("mmdebstrap", "--variant=minbase", packages, "bookworm", str(tar))
        base = self._buildah("from", "scratch").split()[-1]
        self._buildah("add", base, str(tar), "/")
        tar.unlink()
        mounted = Path(self._buildah("mount", base).split()[-1])
        (mounted / "usr/bin/python").symlink_to("python3.11")
        # Behind a proxy with its own certificate, the packages come through it.
        shutil.copy(os.environ.get("SSL_CERT_FILE", CA_FILE), mounted / CA_FILE.lstrip("/"))
        self._buildah("umount", base)
        self._buildah("config", "--env", f"PATH={PATH}", "--env", f"SSL_CERT_FILE={CA_FILE}", base)
        self._buildah("commit", "--rm", base, "localhost/base")
        uv = self._buildah("from", "scratch").split()[-1]
        self._buildah("copy", uv, str(_uv()), "/uv")
        self._buildah("commit", "--rm", uv, "localhost/uv")

    def remove(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "0")
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")
        shutil.rmtree(self.folder)

    def _flags(self) -> list[str]:
        return ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]

    def _podman(self, *args: str) -> list[str]:
        return ["podman", *self._flags(), "--runtime", "runc", "--cgroup-manager", "cgroupfs", *args]

    def _buildah(self, *args: str, timeout_s: float = 300) -> str:
        tmp = self.folder / "tmp"
        tmp.mkdir(exist_ok=True)
        env = os.environ | {"TMPDIR": str(tmp)}
        return _printed("buildah", *self._flags(), *args, timeout_s=timeout_s, env=env)


# A container shares the host's network: no bridge can be made in every place where tests run.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
RUN_OPTIONS = ("--network=host", "--no-healthcheck", *LIMITS)


def _printed(*command: str, timeout_s: float = 300, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, env=env
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout.strip()


def _uv() -> Path:
    """The uv program itself: what is on the PATH may be a script of a version manager."""
    beside = Path(sys.base_prefix) / "bin" / "uv"
    for path in (os.environ.get("UV"), shutil.which("uv"), str(beside)):
        if path and Path(path).is_file() and Path(path).resolve().read_bytes()[:4] == b"\x7fELF":
            return Path(path).resolve()
    raise AssertionError("no uv program was found; run the tests by `uv run pytest`")
