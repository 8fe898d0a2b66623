"""The full-size studies hold the settings of the paper's runs: every trial as it is resolved, figure by figure.

The figures are typed here from the table of the authors' code and logs (for Penn Treebank also in ``ptb_runs.csv``),
not read from the study files; what the table does not name is the optimizer's published default. A change of a study
file, of a default or of how the two are merged fails.
"""

from __future__ import annotations

import pytest
import torch

from adamomentum.study import registry, stages, studyfile
from adamomentum.study.tasks.gan.settings import GanSettings
from adamomentum.study.tasks.language.settings import LanguageSettings
from adamomentum.study.tasks.translation.settings import TranslationSettings

# What no run of the paper switches on, by optimizer.
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
OFF = {
    "adamomentum": {
        "betas": (0.9, 0.999),
        "eps": 1e-16,
        "decoupled_weight_decay": True,
        "fixed_decay": False,
        "amsgrad": False,
        "rectify": False,
        "full_bias_correction": False,
    },
    "sgdm": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "adam": ADAM,
    "adamw": ADAM,
    "radam": {"betas": (0.9, 0.999), "eps": 1e-8, "decoupled_weight_decay": True},
    "yogi": {
        "betas": (0.9, 0.999),
        "eps": 1e-3,
        "initial_accumulator": 1e-6,
        "weight_decouple": True,
        "fixed_decay": False,
    },
    "adabound": {
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "final_lr": 0.1,
        "gamma": 1e-3,
        "weight_decouple": True,
        "fixed_decay": False,
        "ams_bound": False,
    },
    "adabelief": {
        "betas": (0.9, 0.999),
        "eps": 1e-16,
        "weight_decouple": True,
        "fixed_decay": False,
        "rectify": True,
        "n_sma_threshold": 5.0,
        "degenerated_to_sgd": True,
        "ams_bound": False,
    },
}
L2 = {"weight_decouple": False}

CIFAR_DECAY = {"weight_decay": 5e-4}
CIFAR = {
    "sgdm": {"lr": 0.1, "momentum": 0.9, **CIFAR_DECAY},
    "adam": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0.0},  # 5e-4 is what was printed
    "adamw": {"lr": 1e-3, "eps": 1e-8, **CIFAR_DECAY},
    "radam": {"lr": 1e-3, "eps": 1e-8, "decoupled_weight_decay": True, **CIFAR_DECAY},
    "yogi": {"lr": 1e-3, "eps": 1e-8, **L2, **CIFAR_DECAY},
    "adabound": {"lr": 1e-3, "eps": 1e-8, "final_lr": 0.1, "gamma": 1e-3, **L2, **CIFAR_DECAY},
    "adabelief": {"lr": 1e-3, "eps": 1e-8, "rectify": False, **L2, **CIFAR_DECAY},
    "adamomentum": {"lr": 1e-3, "eps": 1e-8, "rectify": False, "decoupled_weight_decay": False, **CIFAR_DECAY},
}

PTB_DECAY = {"weight_decay": 1.2e-6}  # 1.2e-4 is what was printed
PTB_1 = {
    "sgdm": {"lr": 30.0, "momentum": 0.0, **PTB_DECAY},
    "adam": {"lr": 1e-3, "eps": 1e-12, **PTB_DECAY},
    "adamw": {"lr": 1e-3, "eps": 1e-12, **PTB_DECAY},
    "radam": {"lr": 1e-3, "eps": 1e-12, **PTB_DECAY},
    "yogi": {"lr": 1e-2, "eps": 1e-3, **L2, **PTB_DECAY},
    "adabound": {"lr": 1e-2, "eps": 1e-8, "final_lr": 30.0, **L2, **PTB_DECAY},
    "adabelief": {"lr": 1e-3, "eps": 1e-16, "rectify": False, **L2, **PTB_DECAY},
    "adamomentum": {"lr": 1e-3, "eps": 1e-16, "decoupled_weight_decay": False, **PTB_DECAY},
}
PTB_DEEPER = {
    **PTB_1,
    "adam": {"lr": 1e-2, "eps": 1e-8, **PTB_DECAY},
    "adamw": {"lr": 1e-3, "eps": 1e-8, **PTB_DECAY},
    "radam": {"lr": 1e-3, "eps": 1e-8, **PTB_DECAY},
    "adabelief": {"lr": 1e-2, "eps": 1e-12, "rectify": False, **L2, **PTB_DECAY},
}

IMAGENET = {
    "sgdm": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
    "adam": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-4},
    "adamomentum": {"lr": 1e-3, "eps": 1e-16, "weight_decay": 5e-2, "decoupled_weight_decay": True},
}

IWSLT_DECAY = {"weight_decay": 1e-4}
IWSLT = {
    "sgdm": {"lr": 0.1, "momentum": 0.9, **IWSLT_DECAY},
    "adam": {"lr": 1.5e-3, "betas": (0.9, 0.98), "eps": 1e-8, **IWSLT_DECAY},
    "adamw": {"lr": 1.5e-3, "betas": (0.9, 0.98), "eps": 1e-8, **IWSLT_DECAY},
    "adabelief": {"lr": 1.5e-3, "eps": 1e-16, "rectify": True, **IWSLT_DECAY},
    "adamomentum": {"lr": 5e-4, "eps": 1e-16, "rectify": True, "decoupled_weight_decay": True, **IWSLT_DECAY},
}

GAN = {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.0}
DCGAN = {
    **{name: GAN for name in OFF if name not in ("sgdm", "adamomentum")},
    "sgdm": {"lr": 2e-4, "weight_decay": 0.0},
    "adamomentum": {**GAN, "eps": 1e-8, "rectify": False},
}
RESIDUAL_GAN = {**DCGAN, "adamomentum": {**GAN, "eps": 1e-16, "rectify": True}}


def epochs(count: int, batch_size: int) -> dict[str, object]:
    """A budget with an evaluation each epoch."""
    return {"epochs": count, "steps": None, "batch_size": batch_size, "evaluations": count}


def steps(count: int) -> dict[str, object]:
    return {"epochs": None, "steps": count, "batch_size": 64, "evaluations": 40}


CIFAR_TRAINING = {
    "schedule": {"name": "step", "milestones": (60 / 200, 120 / 200, 160 / 200), "factor": 0.2},
    "budget": epochs(200, 128),
}
PTB_TRAINING = {
    "schedule": {"name": "step", "milestones": (100 / 200, 145 / 200), "factor": 0.1},
    "budget": epochs(200, 20),
}
GAN_TRAINING = {"schedule": {"name": "constant", "warmup_fraction": 0.0}}


def cifar(data: str, model: str) -> dict[str, object]:
    return {"data": data, "model": model, "augment": "crop-flip-cutout", "label_smoothing": 0.1}


def gan(model: str, d_steps: int) -> dict[str, object]:
    return {"data": "cifar10", "model": model, "features": "inception", "d_steps": float(d_steps)}


# (study, task) -> seeds, params, optimizers, and what else a trial says.
AS_RUN = {
    **{
        ("paper-cifar", f"{data}-{short}"): (5, cifar(data, model), CIFAR, CIFAR_TRAINING)
        for data in ("cifar10", "cifar100")
        for short, model in (("vgg16", "vgg16-bn"), ("resnet34", "resnet34"), ("densenet121", "densenet121"))
    },
    ("paper-imagenet", "imagenet-resnet18"): (
        3,
        {"data": "imagenet", "model": "resnet18-imagenet", "augment": "rrc-flip"},
        IMAGENET,
        {
            "schedule": {"name": "cosine", "warmup_fraction": 0.0},
            "budget": epochs(100, 256),
            "precision": "bfloat16",
            "processes": 8,
        },
    ),
    ("paper-ptb", "ptb-1"): (5, {"data": "ptb"}, PTB_1, PTB_TRAINING),
    ("paper-ptb", "ptb-2"): (5, {"data": "ptb", "layers": 2.0}, PTB_DEEPER, PTB_TRAINING),
    ("paper-ptb", "ptb-3"): (5, {"data": "ptb", "layers": 3.0}, PTB_DEEPER, PTB_TRAINING),
    ("paper-iwslt", "iwslt14"): (
        5,
        {"data": "iwslt14"},
        IWSLT,
        {
            "schedule": {"name": "inverse_sqrt", "warmup_steps": 8000, "start": 1e-7, "floor": 1e-9},
            "budget": epochs(55, 4096),
            "precision": "bfloat16",
        },
    ),
    ("paper-gan", "dcgan"): (5, gan("dcgan", 2), DCGAN, {**GAN_TRAINING, "budget": steps(200_000)}),
    ("paper-gan", "sngan"): (5, gan("sngan", 5), RESIDUAL_GAN, {**GAN_TRAINING, "budget": steps(100_000)}),
    ("paper-gan", "biggan-cr"): (5, gan("biggan", 5), RESIDUAL_GAN, {**GAN_TRAINING, "budget": steps(100_000)}),
}


def test_every_task_of_the_full_size_studies_is_held() -> None:
    names = [name for name in studyfile.built_in() if not name.endswith("-mini")]
    assert {(name, task.name) for name in names for task in studyfile.read(name).tasks} == AS_RUN.keys()


@pytest.mark.parametrize(("name", "task"), AS_RUN, ids=[task for _, task in AS_RUN])
def test_trials_are_as_the_paper_ran_them(name, task) -> None:
    seeds, params, optimizers, rest = AS_RUN[name, task]
    study = studyfile.read(name).only((task,))
    trials = stages.plan(study, {task: "0" * 16}, {}, "cuda").trials
    assert {t.role for t in trials} == {"final"}  # nothing is tuned
    assert set(study.optimizers) == optimizers.keys()
    for optimizer, setting in optimizers.items():
        mine = [t.spec for t in trials if t.optimizer == optimizer]
        assert [spec.replicate for spec in mine] == list(range(seeds))
        expected = {**OFF[optimizer], **setting}
        lr = expected.pop("lr")
        for spec in mine:
            assert spec.optimizer.name == optimizer
            assert spec.optimizer.lr == lr
            assert spec.optimizer.hyperparameters == expected, optimizer
            assert spec.task.params == params
            registry.build(spec.optimizer, [torch.nn.Parameter(torch.ones(2))])  # what it is given it takes
            said = spec.model_dump(include={"schedule", "budget", "precision", "processes"})
            assert said == {"precision": "float32", "processes": 1, **rest}


def test_what_differs_from_the_paper_is_noted() -> None:
    """Where a run differs from the printed table, or a study file from the run, the report says so."""
    for name, task, *words in (
        ("paper-cifar", "cifar100-densenet121", "5e-4 in the printed table", "best test epoch", "5,000 training"),
        ("paper-imagenet", "imagenet-resnet18", "bfloat16 autocast is this file's choice", "Three seeds", "10,000"),
        ("paper-ptb", "ptb-3", "1.2e-4 in the printed table", "averaged SGD", "best test epoch"),
        ("paper-iwslt", "iwslt14", "bfloat16 autocast is this file's choice", "mean of the last five epochs"),
        ("paper-gan", "dcgan", "log sigmoid(1 - score)", "running statistics", "published default", "5,000 training"),
        ("paper-gan", "sngan", "best evaluation", "published default", "5,000 training"),
        ("paper-gan", "biggan-cr", "running statistics", "best evaluation", "published default", "5,000 training"),
    ):
        notes = " ".join(studyfile.read(name).task(task).notes)
        for word in words:
            assert word in notes, (task, word)


# --- networks, loss and measure, which the families set by the data ---


def test_awd_lstm_is_as_the_paper_ran_it() -> None:
    assert LanguageSettings.of({"data": "ptb"}).model_dump() == {
        "data": "ptb",
        "model": "awd-lstm",
        "layers": 1,
        "embedding": 400,
        "hidden": 1150,
        "heads": 4,  # of a Transformer alone
        "drop_words": 0.1,
        "drop_input": 0.4,
        "drop_hidden": 0.25,
        "drop_output": 0.4,
        "weight_drop": 0.5,
        "bptt": 70,
        "variable_bptt": True,
        "clip": 0.25,
        "alpha": 2.0,
        "beta": 1.0,
        "eval_streams": 1,
        "eval_limit": 0,
        "any_size": False,
    }


def test_the_transformer_is_as_the_paper_ran_it() -> None:
    assert TranslationSettings.of({"data": "iwslt14"}).model_dump() == {
        "data": "iwslt14",
        "subwords": 10_000,
        "features": 512,
        "inner": 1024,
        "heads": 4,
        "layers": 6,
        "dropout": 0.3,
        "drop_attention": 0.1,
        "drop_activation": 0.1,
        "label_smoothing": 0.1,
        "beam": 5,
        "penalty": 1.0,
        "clip": 0.0,
        "eval_limit": 0,
    }


@pytest.mark.parametrize(
    ("model", "d_steps", "own"),
    [
        ("dcgan", 2, {"loss": "bce"}),
        ("sngan", 5, {"loss": "hinge"}),
        ("biggan", 5, {"loss": "hinge", "consistency": 10.0, "average": 0.9999, "average_from": 1000}),
    ],
)
def test_gans_are_as_the_paper_ran_them(model, d_steps, own) -> None:
    common = {
        "data": "cifar10",
        "model": model,
        "features": "inception",
        "d_steps": d_steps,
        "latent": 0,  # the model's own
        "width": 0,
        "consistency": 0.0,
        "flip": True,
        "average": 0.0,
        "average_from": 0,
        "samples": 10_000,
        "eval_limit": 0,
    }
    assert GanSettings.of(gan(model, d_steps)).model_dump() == {**common, **own}
