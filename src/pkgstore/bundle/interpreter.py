"""What decides which packages an interpreter can run; as a script, it tells this of the one that runs it."""

from __future__ import annotations

import json
import platform
import sys
import sysconfig


def facts() -> dict[str, str]:
    """Return the version of this interpreter, and of the platform that it was built for and runs on."""
    return {
        "implementation": sys.implementation.name,
        "version": platform.python_version(),
        "abi": str(sysconfig.get_config_var("EXT_SUFFIX")),
        "platform": sysconfig.get_platform(),
        "libc": " ".join(platform.libc_ver()),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts()))
