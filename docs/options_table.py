"""The table of options.md: the options of the three optimizers, from their signatures, and what serves in their place.

    python docs/options_table.py

writes it into the page. Nothing is imported of the library, so that no framework is needed. Tested in
tests/test_docs.py.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "adamomentum"
PAGE = Path(__file__).with_name("options.md")
START, END = "<!-- written by options_table.py from here -->", "<!-- to here -->"

# Each function: its file, its name, the class around it, and what is no option of the update.
FUNCTIONS = {
    "PyTorch": ("torch/optimizer.py", "__init__", "AdaMomentum", ("self", "params")),
    "optax": ("optax.py", "adamomentum", None, ()),
    "Keras": ("keras.py", "__init__", "AdaMomentum", ("self", "name")),
}
# The module whose public functions serve as options.
MODULES = {"PyTorch": "torch/__init__.py", "optax": "optax.py", "Keras": "keras.py"}


class Row(NamedTuple):
    """An option: what it is, its name in each framework, and what to write there where it has none.

    Attributes:
        what: the option in a few words.
        names: the parameters in the signatures, or public functions; the same for all, or by framework, several by
            blanks.
        idioms: by framework, what serves where there is nothing of that name.
    """

    what: str
    names: str | Mapping[str, str]
    idioms: Mapping[str, str] = MappingProxyType({})


ROWS = (
    Row("learning rate", {"PyTorch": "lr", "optax": "learning_rate", "Keras": "learning_rate"}),
    Row("decay rates of the moments", {"PyTorch": "betas", "optax": "b1 b2", "Keras": "beta_1 beta_2"}),
    Row("added to the second moment at every step", {"PyTorch": "eps", "optax": "eps", "Keras": "epsilon"}),
    Row("steps as long as AdamW's", "adjust_lr"),
    Row("what the second moment averages the square of", "second_moment"),
    Row("move by the look-ahead momentum", "nesterov"),
    Row("average the square of the corrected momentum", "full_bias_correction"),
    Row("divide by the largest second moment so far", "amsgrad"),
    Row("RAdam's factor", "rectify"),
    Row("decoupled weight decay", "weight_decay"),
    Row(
        "L2 decay instead",
        "decoupled_weight_decay",
        {"optax": "`optax.add_decayed_weights` before it", "Keras": "`kernel_regularizer`"},
    ),
    Row(
        "decay that is not times lr",
        "fixed_decay",
        {"optax": "`optax.add_decayed_weights(-decay)` after it"},
    ),
    Row(
        "what does not decay",
        {"PyTorch": "param_groups", "optax": "mask"},
        {"Keras": "`exclude_from_weight_decay`"},
    ),
    Row(
        "rates by layer",
        {},
        {
            "PyTorch": "`param_groups(layer_decay=…)`",
            "optax": "`optax.multi_transform`",
            "Keras": "`keras.optimizers.MultiOptimizer`",
        },
    ),
    Row("uphill", "maximize", {"optax": "`optax.scale(-1.0)` before it", "Keras": "negate the loss"}),
    Row("how the moments are stored", {"PyTorch": "state_dtype", "optax": "mu_dtype nu_dtype"}),
    Row(
        "half-precision parameters that keep learning",
        {"PyTorch": "rounding", "optax": "apply_updates_stochastically", "Keras": "rounding"},
    ),
    Row(
        "clipping",
        {"Keras": "clipnorm clipvalue global_clipnorm"},
        {"PyTorch": "`clip_grad_norm_`", "optax": "`optax.clip_by_global_norm` before it"},
    ),
    Row(
        "accumulation over several passes",
        {"PyTorch": "release_gradients", "optax": "MultiSteps", "Keras": "gradient_accumulation_steps"},
    ),
    Row(
        "loss scaling",
        {"Keras": "loss_scale_factor"},
        {"PyTorch": "`torch.amp.GradScaler`", "optax": "float32 parameters, cast in the model"},
    ),
    Row(
        "average of the weights",
        {"Keras": "use_ema ema_momentum ema_overwrite_frequency"},
        {"PyTorch": "`torch.optim.swa_utils.AveragedModel`", "optax": "`optax.incremental_update`"},
    ),
    Row(
        "which code does the step",
        {"PyTorch": "foreach fused"},
        {"optax": "XLA", "Keras": "the backend"},
    ),
    Row("capture in a CUDA graph", "capturable", {"optax": "XLA", "Keras": "the backend"}),
    Row("derivatives through the step", "differentiable", {"optax": "`jax.grad`"}),
    Row("on from Adam's state", "from_adam", {"Keras": "load its weights file"}),
)


def options(framework: str) -> dict[str, str | None]:
    """Return the options of a framework's optimizer with their defaults as they are written, None without one."""
    file, name, owner, others = FUNCTIONS[framework]
    nodes = ast.parse((SOURCE / file).read_text(encoding="utf-8")).body
    if owner:
        (nodes,) = [node.body for node in nodes if isinstance(node, ast.ClassDef) and node.name == owner]
    (function,) = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]
    parameters, positional = function.args, function.args.args
    defaults = [None] * (len(positional) - len(parameters.defaults)) + list(parameters.defaults)
    written = {
        parameter.arg: None if default is None else ast.unparse(default)
        for parameter, default in [
            *zip(positional, defaults, strict=True),
            *zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True),
        ]
    }
    return {name: default for name, default in written.items() if name not in others}


def functions(framework: str) -> set[str]:
    """Return the names in ``__all__`` of a framework's module."""
    nodes = ast.parse((SOURCE / MODULES[framework]).read_text(encoding="utf-8")).body
    (names,) = [
        node.value for node in nodes if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return set(ast.literal_eval(names))


def table() -> str:
    """Return the table in Markdown.

    Raises:
        ValueError: if an option stands in no row, or in two.
    """
    known = {framework: options(framework) for framework in FUNCTIONS}
    public = {framework: functions(framework) for framework in FUNCTIONS}
    lines = ["| | " + " | ".join(known) + " |", "|---" * (1 + len(known)) + "|"]
    shown: list[tuple[str, str]] = []
    for row in ROWS:
        cells = []
        for framework, defaults in known.items():
            names = row.names if isinstance(row.names, str) else row.names.get(framework, "")
            own = [name for name in names.split() if name in defaults or name in public[framework]]
            shown += [(framework, name) for name in own]
            written = [f"`{name}={value}`" if (value := defaults.get(name)) else f"`{name}`" for name in own]
            cells.append(", ".join(written) or row.idioms.get(framework, ""))
        lines.append(f"| {row.what} | " + " | ".join(cell or "no" for cell in cells) + " |")
    for framework, defaults in known.items():
        for name in defaults:
            if shown.count((framework, name)) != 1:
                raise ValueError(f"{name} of {framework} must stand in one row of ROWS in {Path(__file__).name}")
    return "\n".join(lines) + "\n"


def page_with(table: str) -> str:
    """Return the page with this table in it."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{table}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()), encoding="utf-8")
