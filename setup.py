"""The native module; everything else about the package is in pyproject.toml."""

import shlex
import subprocess

from setuptools import Extension, setup


def pkg_config(flag: str) -> list[str]:
    """What the compiler needs for libfuse. A plain sentence where it is not installed: pyfuse3 needs the same."""
    try:
        return shlex.split(subprocess.check_output(["pkg-config", flag, "fuse3"], text=True))
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit("tierfs needs pkg-config and libfuse3-dev (Debian's names) to be built") from error


UNITS = ("tap", "attached", "directories", "inflight", "replies", "hotfiles")
WARNINGS = ("-Wall", "-Wextra")

setup(
    ext_modules=[
        Extension(
            "tierfs.mount._native",
            sources=[f"tierfs/mount/native/{name}.c" for name in ("module", *UNITS)],
            depends=[f"tierfs/mount/native/{name}.h" for name in (*UNITS, "attributes", "protocol")],
            extra_compile_args=["-std=gnu11", "-pthread", "-fvisibility=hidden", *WARNINGS, *pkg_config("--cflags")],
            extra_link_args=["-pthread", *pkg_config("--libs")],
        )
    ]
)
