"""Jobs: a task with its files and options as plain data, run with events. Command line, worker and job file share it.

Events are dictionaries, one per line of JSON where they leave the process; :data:`PROTOCOL` is their version.
"""

from .augmentation import run_augmentation, run_case
from .comparison import run_comparison
from .evaluation import run_evaluation
from .events import PROGRESS_PERIOD_S, PROTOCOL, Emit, ProgressEvents, error_event, exit_code
from .job import TASKS, Job, parse_options
from .runner import Models, check_output, run, run_reporting

__all__ = [
    "PROGRESS_PERIOD_S",
    "PROTOCOL",
    "TASKS",
    "Emit",
    "Job",
    "Models",
    "ProgressEvents",
    "check_output",
    "error_event",
    "exit_code",
    "parse_options",
    "run",
    "run_augmentation",
    "run_case",
    "run_comparison",
    "run_evaluation",
    "run_reporting",
]
