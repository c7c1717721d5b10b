"""Makes PySide6 behave as PythonQt does inside Slicer, and refuse what PythonQt refuses.

Properties are attributes (``w.text``, not ``w.text()``); ``w.connect("clicked(bool)", f)`` works, with unknown signals
and unknown attributes as errors instead of silence. The change is process-wide: never mix it with plain PySide6 code.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

_MODULES = (QtCore, QtGui, QtWidgets)
# Virtual getters (Qt itself calls them through Python) and a property that hides the static QTimer.singleShot,
# which Slicer restores as a static too.
_KEPT_METHODS = {"sizeHint", "minimumSizeHint", "singleShot"}
_NOT_IN_PYTHONQT = ("Signal", "Slot", "Property")
_WRAPPERS: dict[tuple[int, str, Any], Callable[..., Any]] = {}


class _PropertyAttribute:
    """A Q_PROPERTY as a data descriptor; on the class it stays what it was (static methods)."""

    def __init__(self, cls: type, name: str, writable: bool) -> None:
        capital = name[0].upper() + name[1:]
        self.name, self.writable = name, writable
        self.before = getattr(cls, name, None)
        self.getter = self.before if callable(self.before) else getattr(cls, "is" + capital, None)
        self.setter = getattr(cls, "set" + capital, None)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.before
        return self.getter.__get__(instance)() if self.getter else instance.property(self.name)

    def __set__(self, instance: Any, value: Any) -> None:
        if not self.writable:
            raise AttributeError(f"property '{self.name}' of {type(instance).__name__} is read-only")
        if self.setter:
            self.setter(instance, value)
        elif not instance.setProperty(self.name, value):
            raise TypeError(f"property '{self.name}' of {type(instance).__name__} refuses {value!r}")


def make_qt_module() -> types.ModuleType:
    """Patch PySide6 and return the module that Slicer calls ``qt``."""
    classes = [
        value
        for module in _MODULES
        for value in (getattr(module, name) for name in dir(module))
        if isinstance(value, type) and issubclass(value, QtCore.QObject)
    ]
    for cls in sorted(set(classes), key=lambda c: len(c.__mro__)):
        meta = cls.staticMetaObject
        for index in range(meta.propertyOffset(), meta.propertyCount()):
            entry = meta.property(index)
            if entry.name() not in _KEPT_METHODS:
                setattr(cls, entry.name(), _PropertyAttribute(cls, entry.name(), entry.isWritable()))
        cls.__setattr__ = _strict_setattr
    QtCore.QObject.name = inspect.getattr_static(QtCore.QObject, "objectName")
    QtCore.QObject.className = lambda self: self.metaObject().className()
    QtCore.QObject.delete = lambda self: shiboken6.delete(self)
    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        setattr(QtWidgets.QFileDialog, name, staticmethod(_no_dialog))
    QtCore.QObject.__getattribute__ = _with_string_connect(QtCore.QObject.__getattribute__)

    qt = types.ModuleType("qt", "PySide6 in PythonQt's clothes (test host)")
    for module in _MODULES:
        for name in dir(module):
            if not name.startswith("_") and name not in _NOT_IN_PYTHONQT:
                setattr(qt, name, getattr(module, name))
    return qt


def _no_dialog(*_: Any) -> str:
    """A test that saves says where instead; in PythonQt the answer is one text, empty when cancelled."""
    raise RuntimeError("a file dialog would open, and nobody is there to answer it")


def _strict_setattr(self: Any, name: str, value: Any) -> None:
    """Set a property; new attributes only on classes written in Python, as in PythonQt."""
    attribute = inspect.getattr_static(type(self), name, None)
    if isinstance(attribute, QtCore.Property):
        attribute.fset(self, value)
    elif hasattr(type(attribute), "__set__"):
        attribute.__set__(self, value)
    elif isinstance(value, QtCore.SignalInstance):  # PySide keeps a signal on its object when it is first looked up
        self.__dict__[name] = value
    elif type(self).__module__.startswith("PySide6") and not _is_dynamic_property(self, name):
        raise AttributeError(f"{type(self).__name__} has no property '{name}'")
    elif _is_dynamic_property(self, name):
        self.setProperty(name, value)
    else:
        self.__dict__[name] = value


def _is_dynamic_property(obj: Any, name: str) -> bool:
    return name.encode() in [bytes(item.data()) for item in obj.dynamicPropertyNames()]


def _with_string_connect(before: Callable[..., Any]) -> Callable[..., Any]:
    def lookup(self: Any, name: str) -> Any:
        if name == "connect":
            return lambda signal, slot: connect(self, signal, slot)
        if name == "disconnect":
            return lambda signal, slot: disconnect(self, signal, slot)
        return before(self, name)

    return lookup


def connect(sender: Any, signal: str, slot: Callable[..., Any]) -> bool:
    """``sender.connect("clicked(bool)", slot)``.

    Raises:
        ValueError: the sender has no such signal, or the slot needs more arguments than the signal carries.
    """
    bound, arguments = _find_signal(sender, signal)
    count = _accepted_arguments(slot, arguments, signal)
    wrapper = {
        0: lambda: slot(),
        1: lambda a: slot(a),
        2: lambda a, b: slot(a, b),
        3: lambda a, b, c: slot(a, b, c),
    }[count]
    _WRAPPERS[(shiboken6.getCppPointer(sender)[0], signal, slot)] = wrapper
    bound.connect(wrapper)
    return True


def disconnect(sender: Any, signal: str, slot: Callable[..., Any]) -> bool:
    """Undo :func:`connect`.

    Raises:
        ValueError: that connection does not exist.
    """
    bound, _ = _find_signal(sender, signal)
    try:
        wrapper = _WRAPPERS.pop((shiboken6.getCppPointer(sender)[0], signal, slot))
    except KeyError:
        raise ValueError(f"{signal} of {sender!r} is not connected to {slot!r}") from None
    bound.disconnect(wrapper)
    return True


def _find_signal(sender: Any, signal: str) -> tuple[Any, int]:
    """The bound signal and the number of arguments of the given signature."""
    signature = bytes(QtCore.QMetaObject.normalizedSignature(signal).data()).decode()
    arguments = signature[signature.index("(") + 1 : -1] if signature.endswith(")") else ""
    count = len(arguments.split(",")) if arguments else 0
    alias = getattr(type(sender), "SIGNAL_ALIASES", {}).get(signature)
    if alias:  # signals of Slicer's widgets carry C++ types that Python's signals cannot name
        return getattr(sender, alias), count
    meta = sender.metaObject()
    if meta.indexOfSignal(signature) < 0:
        raise ValueError(f"{type(sender).__name__} has no signal '{signal}'")
    name = signature.split("(")[0]
    overloads = {meta.method(i).parameterTypes().__len__() for i in range(meta.methodCount())
                 if meta.method(i).name() == name.encode()}  # fmt: skip
    bound = getattr(sender, name)
    return (bound if len(overloads) > 1 or not arguments else bound[arguments]), count


def _accepted_arguments(slot: Callable[..., Any], offered: int, signal: str) -> int:
    """How many of the offered arguments the slot takes: PythonQt drops the rest."""
    try:
        parameters = list(inspect.signature(slot).parameters.values())
    except (TypeError, ValueError):  # built-in methods of Qt objects
        return 0 if offered == 0 else 1
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return offered
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    if required > offered:
        raise ValueError(f"{slot!r} needs {required} arguments, but '{signal}' carries {offered}")
    return min(offered, len(positional))
