"""What can be checked without running anything: files, .ui, imports, CMake lists, the Extension Index's rules."""

from __future__ import annotations

import ast
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from slicerhost import uifile

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "CTGenExtension"
SOURCES = sorted(EXTENSION.rglob("*.py"))
UI_FILES = sorted(EXTENSION.rglob("*.ui"))
MODULES = sorted(path.parent for path in EXTENSION.glob("*/Resources"))
# What the Extension Index allows at file scope, and our own libraries.
ALLOWED = {
    "qt",
    "ctk",
    "slicer",
    "vtk",
    "SimpleITK",
    "numpy",
    "scipy",
    "CTGenLib",
    "CTGenEvaluateLib",
    "CTGenGenerateLib",
    "CTGenReconstructLib",
} | set(sys.stdlib_module_names)
INPUTS = {"QComboBox", "QSpinBox", "QDoubleSpinBox", "QCheckBox", "QPushButton", "QLineEdit", "qMRMLNodeComboBox",
          "ctkPathLineEdit", "QPlainTextEdit", "QTableWidget", "QToolButton"}  # fmt: skip


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that runs when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from outside_functions(child)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_allowed_imports_and_nothing_run_at_file_scope(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in outside_functions(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for imported in names:
            assert imported.split(".")[0] in ALLOWED, f"{imported} at file scope"
    everything = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (torch|ctgencore|monai|diffusers)\b", everything, re.MULTILINE)
    assert "processEvents" not in everything or path.parent in MODULES  # only its self test


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_text_for_users_can_be_translated(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}: _() takes a literal, never an f-string"
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            literal = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) and node.value.value
            if node.targets[0].attr in ("text", "toolTip", "format") and literal:
                pytest.fail(f"line {node.lineno}: {literal!r} is not inside _()")


@pytest.mark.parametrize("path", UI_FILES, ids=name)
def test_ui_file(path: Path) -> None:
    tree = ElementTree.parse(path)
    source = (path.parents[2] / f"{path.stem}.py").read_text(encoding="utf-8")
    widgets = {element.get("name"): element for element in tree.iter("widget")}
    known = {"QWidget", "QLabel", "QProgressBar", "QTabWidget", *INPUTS, *uifile.CUSTOM_WIDGETS}
    names = [element.get("name") for element in tree.iter("widget")]
    assert len(names) == len(set(names)), "two widgets have the same name"
    for element in widgets.values():
        assert element.get("class") in known
        properties = {entry.get("name"): "".join(entry.itertext()).strip() for entry in element.findall("property")}
        if element.get("class") in INPUTS:
            assert properties.get("toolTip"), f"{element.get('name')} has no tooltip"
        parameter = properties.get("SlicerParameterName")
        if parameter:
            assert re.search(rf"^    {parameter}: ", source, re.MULTILINE), f"no parameter '{parameter}'"
    connected = {
        connection.findtext("receiver")
        for connection in tree.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
    }
    assert connected == {key for key, element in widgets.items() if element.get("class").startswith("qMRMLNode")}
    parts = [EXTENSION / "CTGenLib" / "sections.py", *path.parents[2].glob("*Lib/*.py")]
    everything = "\n".join([source, *(part.read_text(encoding="utf-8") for part in parts)])
    for used in set(re.findall(r"\bui\.(\w+)", everything)):
        assert used in widgets, f"the module uses '{used}', which the .ui file lacks"


def cmake_list(text: str, variable: str) -> set[str]:
    match = re.search(rf"set\({variable}\s+(.*?)\)", text, re.DOTALL)
    return set(match.group(1).split()) if match else set()


@pytest.mark.parametrize("folder", MODULES, ids=name)
def test_cmake_lists_every_file_of_a_module(folder: Path) -> None:
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path} - {"CMakeLists.txt"}
    assert cmake_list(text, "MODULE_PYTHON_SCRIPTS") | cmake_list(text, "MODULE_PYTHON_RESOURCES") == files
    assert cmake_list(text, "MODULE_NAME") == {folder.name}
    assert f"add_subdirectory(CTGenExtension/{folder.name})" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def test_cmake_lists_every_file_of_the_library() -> None:
    folder = EXTENSION / "CTGenLib"
    listed = cmake_list((folder / "CMakeLists.txt").read_text(encoding="utf-8"), "LIBRARY_SCRIPTS")
    assert listed == {path.name for path in folder.glob("*.py")}


def test_every_module_has_its_parts() -> None:
    assert MODULES
    for folder in MODULES:
        source = (folder / f"{folder.name}.py").read_text(encoding="utf-8")
        for part in ("", "Widget", "Logic", "Test", "ParameterNode"):
            assert f"class {folder.name}{part}(" in source or f"class {folder.name}{part}:" in source
        icon = (folder / "Resources" / "Icons" / f"{folder.name}.png").read_bytes()
        assert icon.startswith(b"\x89PNG")
        assert (int.from_bytes(icon[16:20], "big"), int.from_bytes(icon[20:24], "big")) == (128, 128)


def test_extension_index_rules() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    entry_file = next(EXTENSION.glob("*.json"))
    text = entry_file.read_bytes()
    assert b"\r" not in text
    entry = json.loads(text)
    project = re.search(r"^project\((\w+)\)", cmake, re.MULTILINE).group(1)
    assert project == entry_file.stem
    assert not project.startswith("Slicer")
    allowed = {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory"}
    assert set(entry) <= allowed | {"enabled", "tier"}
    assert {"$schema", "category", "scm_url"} <= set(entry)
    assert entry["category"] == "Image Synthesis"
    assert entry["tier"] in (1, 2, 3, 4, 5)
    repository = entry["scm_url"].rsplit("/", 1)[1]
    assert repository.startswith("Slicer")
    for key in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{key} "[^"\n]+"\)$', cmake, re.MULTILINE), f"EXTENSION_{key} on one line"
    depends = re.search(r'EXTENSION_DEPENDS "([^"]+)"', cmake).group(1).split()
    assert depends == entry["build_dependencies"]
    for url in re.findall(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/([^\"\s]+)", cmake):
        assert (ROOT / url).is_file(), f"{url} is not in the repository"
        assert url.endswith((".png", ".jpg", ".gif"))
    assert (ROOT / "LICENSE").is_file()


def test_slicer_side_requirements_leave_slicers_own_packages_alone() -> None:
    for path in EXTENSION.rglob("requirements.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                package = re.split(r"[<>=!~ \[]", line)[0].lower()
                assert package not in ("torch", "numpy", "scipy", "simpleitk", "requests", "pydicom", "vtk")
                assert "==" not in line


def test_install_brings_what_the_engine_needs() -> None:
    """Every module runs the same engine; training alone needs accelerate."""
    text = (ROOT / "CTGenCore" / "pyproject.toml").read_text(encoding="utf-8")
    declared = set(re.findall(r'^    "([^"]+)",$', text.split("\ndependencies = [")[1].split("]")[0], re.MULTILINE))
    brought = {line for line in declared if not re.match(r"(torch|numpy|scipy|SimpleITK|accelerate)\b", line)}
    for path in EXTENSION.rglob("requirements.txt"):
        lines = {line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")}
        assert lines == brought, name(path)
