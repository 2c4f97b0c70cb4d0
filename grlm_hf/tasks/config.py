"""All training tasks, and what a mixture of them is made of, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any

from grlm_hf.files import did_you_mean
from grlm_hf.settings import Limit, Range, check_settings
from grlm_hf.tasks.chat import CHAT
from grlm_hf.tasks.collaborative import COLLABORATIVE
from grlm_hf.tasks.histories import SEQUENCE, SLIDING
from grlm_hf.tasks.items import DESCRIPTION_TO_TERM_ID, INTERNALISE, TERM_ID_TO_TITLE, TITLE_TO_TERM_ID
from grlm_hf.tasks.queries import QUERY
from grlm_hf.tasks.steered import STEERED
from grlm_hf.tasks.task import PromptSettings, Task, TaskSettings

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SEQUENCE, INTERNALISE, SLIDING, TITLE_TO_TERM_ID, DESCRIPTION_TO_TERM_ID, TERM_ID_TO_TITLE, COLLABORATIVE, QUERY, STEERED, CHAT,
    )
}  # fmt: skip
"""All tasks by name, in the order of their settings and of their examples before these are shuffled."""
HISTORY_TASKS = tuple(name for name, task in TASKS.items() if task.continues)
"""Tasks that ask what comes next in a history, whose items are in prompt and answer."""
_CAPS = {name: TASKS[name].cap for name in sorted(TASKS, key=lambda name: name not in HISTORY_TASKS)}  # in the order of recorded settings

Weight = Annotated[float, Range(0, 100, text="a weight: 0 for none, 0.5 for half, 1 for each, 2 for each twice (at most 100)")]
_help = "\n".join(f"    {name}: Weight of: {task.help}" for name, task in TASKS.items())
_Weights: Any = make_dataclass(
    "_Weights",
    [(name, Weight, field(default=task.weight)) for name, task in TASKS.items()],
    namespace={"__doc__": f"The weight of each task.\n\nAttributes:\n{_help}\n"},
    frozen=True,
)


@dataclass(frozen=True)
class MixtureConfig(TaskSettings, _Weights, PromptSettings):
    """What the model is trained on: the fields of `PromptSettings`, a weight for each of `TASKS`, the fields of `TaskSettings`, and caps.

    A task's weight is the number of examples per source (user, item, window, conversation): 0 none, .5 one for a random half of the
    sources, 1 one each, 2 two each. The second example is another variant in the tasks query (another phrase), steered (another wish) and
    collaborative (the next neighbours), and the same example in the others.
    """

    caps: dict[str, Limit] = field(default_factory=_CAPS.copy)
    """Examples of this task at most, a seeded choice; 0: all."""

    def __post_init__(self) -> None:
        check_settings(self, "mixture.")
        if strange := next((task for task in self.caps if task not in TASKS), None):
            known = f"Known tasks: {', '.join(TASKS)}."
            raise ValueError(f"mixture.caps has the unknown task {strange!r}. {did_you_mean(strange, TASKS, known)}")
        object.__setattr__(self, "caps", _CAPS | self.caps)
