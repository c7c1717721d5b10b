"""Installs what the bundled engine needs into Slicer's Python; only ever called by the user's click."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

TORCH = ">=2.4"
REQUESTER = "CTGen"


class InstallError(RuntimeError):
    """Installing cannot go on; the message says what the user can do."""


def installRequirements(path: str) -> bool:
    """Install PyTorch (through the PyTorch extension) and the packages of a requirements file, after asking.

    Args:
        path: requirements.txt; without torch.

    Returns:
        False when the user declined.

    Raises:
        InstallError: the PyTorch extension is missing, or pip failed.
    """
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        raise InstallError(
            _("PyTorch is needed. Install the extension 'PyTorch' with the Extensions Manager, restart Slicer, and "
              "click Install again; or choose a Python that has ctgencore.")
        ) from None  # fmt: skip
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH) is None:
        return False
    try:
        return _installPackages(path)
    except Exception as error:  # pip's own errors, of whatever type
        raise InstallError(_("Installing failed: {error}. See the Python console.").format(error=error)) from error


def _installPackages(path: str) -> bool:
    try:
        from slicer import packaging
    except ImportError:  # Slicer 5.10 and older
        with open(path, encoding="utf-8") as file:
            requirements = [line.strip() for line in file if line.strip() and not line.startswith("#")]
        question = _("CTGen will install these packages into Slicer's Python: {packages}. Continue?").format(
            packages=", ".join(requirements)
        )
        if not slicer.util.confirmOkCancelDisplay(question):
            return False
        slicer.util.pip_install(requirements)
        return True
    try:
        packaging.pip_ensure(packaging.load_requirements(path), requester=REQUESTER)
    except RuntimeError:  # the user declined
        return False
    return True
