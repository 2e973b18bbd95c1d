"""What proves that a driver keeps the contract of `pkgstore.driver`.

`pkgstore.testing.conformance`  the tests that every driver has to pass; subclass `DriverConformance`
`pkgstore.testing.faults`       a driver around a driver, that fails as planned
`pkgstore.testing.race`         a command, for the store of an operator: ``python -m pkgstore.testing.race URL``

The first needs the extra ``pkgstore[testing]``; the others need nothing else.
"""

from __future__ import annotations

import sys

_pytest = sys.modules.get("pytest")
if _pytest is not None:
    # So that a failed assert of ours says what it compared; to be done before the modules are imported.
    _pytest.register_assert_rewrite("pkgstore.testing.suite", "pkgstore.testing.machine")
