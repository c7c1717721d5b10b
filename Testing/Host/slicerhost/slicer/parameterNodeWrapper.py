"""Stand-in for Slicer's parameterNodeWrapper (own code, same interface): str, int, float, bool and node parameters."""

import typing
from dataclasses import dataclass

import qt
import slicer
import vtk

__all__ = ["Choice", "WithinRange", "parameterNodeWrapper"]


@dataclass(frozen=True)
class WithinRange:
    """Allowed range of a number, ends included."""

    minimum: float
    maximum: float

    def check(self, value):
        """Raise ValueError outside the range."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within [{self.minimum}, {self.maximum}]")


class Choice:
    """Allowed values."""

    def __init__(self, choices):
        self.choices = list(choices)

    def check(self, value):
        """Raise ValueError when the value is not one of the choices."""
        if value not in self.choices:
            raise ValueError(f"{value!r} is not one of {self.choices}")


class _Parameter:
    """One typed value kept as text, or as a node reference, in a vtkMRMLScriptedModuleNode."""

    def __init__(self, owner, name, hint):
        arguments = typing.get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        self.name, self.kind, self.rules = name, arguments[0], arguments[1:]
        self.is_node = isinstance(self.kind, type) and issubclass(self.kind, slicer.vtkMRMLNode)
        if not self.is_node and self.kind not in (str, int, float, bool):
            raise TypeError(f"the test host has no parameters of type {self.kind!r} ({owner.__name__}.{name})")
        self.default = getattr(owner, name, None if self.is_node else self.kind())

    def read(self, node):
        """The typed value."""
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node, value):
        """Check and store."""
        if self.is_node:
            if value is not None and not isinstance(value, self.kind):
                raise TypeError(f"parameter '{self.name}' holds a {self.kind.__name__}; got {value!r}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.kind:
            raise TypeError(f"parameter '{self.name}' holds {self.kind.__name__}; got {value!r}")
        for rule in self.rules:
            rule.check(value)
        node.SetParameter(self.name, str(value))

    def initialize(self, node):
        """Write the default where there is no value yet."""
        if not self.is_node and not node.GetParameter(self.name) and self.default != "":
            self.write(node, self.default)


# widget class -> (reader, writer, change signal); exact classes, as in Slicer
_WIDGETS = {
    (bool, "QCheckBox"): (lambda w: w.checked, lambda w, v: w.setChecked(v), "toggled(bool)"),
    (int, "QSpinBox"): (lambda w: w.value, lambda w, v: w.setValue(v), "valueChanged(int)"),
    (float, "QDoubleSpinBox"): (lambda w: w.value, lambda w, v: w.setValue(v), "valueChanged(double)"),
    (str, "QLineEdit"): (lambda w: w.text, lambda w, v: w.setText(v), "textChanged(QString)"),
    ("node", "qMRMLNodeComboBox"): (
        lambda w: w.currentNode(),
        lambda w, v: w.setCurrentNode(v),
        "currentNodeChanged(vtkMRMLNode*)",
    ),
}


class _Wrapper:
    """Base of every wrapped class: one property per parameter."""

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._guis = {}
        self._updating = False
        for parameter in self.allParameters.values():
            parameter.initialize(parameterNode)

    def AddObserver(self, *args):
        """Observe the node."""
        return self.parameterNode.AddObserver(*args)

    def RemoveObserver(self, tag):
        """Stop observing the node."""
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self):
        """Hold back events."""
        return self.parameterNode.StartModify()

    def EndModify(self, state):
        """Let events through again."""
        return self.parameterNode.EndModify(state)

    def connectGui(self, gui):
        """Bind every widget that has the dynamic property SlicerParameterName."""
        widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "findChildren") else vars(gui).values()
        bound = []
        for widget in widgets:
            name = widget.property("SlicerParameterName")
            if name:
                bound.append(self._bind(widget, name))
        self._update(bound)
        tag = len(self._guis) + 1
        self._guis[tag] = (bound, self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update(bound)))
        return tag

    def disconnectGui(self, tag):
        """Undo connectGui."""
        if tag not in self._guis:
            return
        bound, observer = self._guis.pop(tag)
        for widget, _, _, signal, slot in bound:
            widget.disconnect(signal, slot)
        self.RemoveObserver(observer)

    def _bind(self, widget, name):
        if name not in self.allParameters:
            raise ValueError(f"SlicerParameterName '{name}' is not a parameter; known: {', '.join(self.allParameters)}")
        parameter = self.allParameters[name]
        key = ("node" if parameter.is_node else parameter.kind, type(widget).__name__)
        if key not in _WIDGETS:
            raise TypeError(f"a {key[1]} cannot show parameter '{name}' of type {parameter.kind}")
        reader, writer, signal = _WIDGETS[key]
        for rule in parameter.rules:
            if isinstance(rule, WithinRange):
                widget.setRange(rule.minimum, rule.maximum)

        def changed():
            if not self._updating:
                parameter.write(self.parameterNode, reader(widget))

        widget.connect(signal, changed)
        return widget, parameter, writer, signal, changed

    def _update(self, bound):
        if self._updating:
            return
        self._updating = True
        try:
            for widget, parameter, writer, _, _ in bound:
                writer(widget, parameter.read(self.parameterNode))
        finally:
            self._updating = False


def parameterNodeWrapper(cls):
    """Turn a class of annotated names into a typed view of a parameter node."""
    parameters = {
        name: _Parameter(cls, name, hint) for name, hint in typing.get_type_hints(cls, include_extras=True).items()
    }
    members = {"allParameters": parameters, "__doc__": cls.__doc__, "__module__": cls.__module__}
    for name, parameter in parameters.items():
        members[name] = property(
            lambda self, p=parameter: p.read(self.parameterNode),
            lambda self, value, p=parameter: p.write(self.parameterNode, value),
        )
    return type(cls.__name__, (_Wrapper,), members)
