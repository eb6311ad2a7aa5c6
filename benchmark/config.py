"""Hydra's side of the fence: command-line words in, resolved plain configs out.

Hydra composes and expands sweeps; it runs nothing. Its main function is called with a task that
only collects the job's config, so its whole grammar holds (overrides, `-m`, `hydra.sweeper.params`,
`glob(*)`, `--cfg job`, `--info`), while cells are computed by a launcher (`benchmark.launching`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmark import plans, sweep
from benchmark.components import CONF, option, options
from benchmark.errors import BenchError, nearest
from benchmark.plans import Plan as Plan
from benchmark.store import canonical

RUNTIME = ("store", "launcher", "stage", "budget", "setting", "diagnosis", "experiment", "tracker")
"""Top-level keys that say how or where; budget and setting reach components by interpolation."""
GROUPS = ("suite", "backbone", "finetune", "peft", "attack", "merge", "defense", "stress")
DEFAULT_STORE = ".lfpm-bench"


def plan(argv: Sequence[str], changed: Callable[[str, str], None] | None = None) -> Plan | None:
    """Compose every job of a command line; None if Hydra only printed something (`--cfg`, ...).

    Plans are kept in the store by the hash of `conf/` and the words: composing costs about 0.1 s a
    cell. Raises BenchError in one sentence for whatever does not compose.

    Args:
        argv: the words.
        changed: is told the ids of an earlier plan of the same words and of the new one, when this
            one is new and conf/ has since changed cells of the earlier one.
    """
    named = [word for word in argv if word.startswith("experiment=") and word[-5:] != "=null"]
    if named and not any(word.startswith("-") for word in argv):
        raise BenchError(f"{named[0]} is a sweep: add -m to run it")
    cached = _cache_path(argv)
    if cached.exists():
        return plans.load(cached)
    jobs = _expand(argv) or _compose(argv)
    if not jobs:
        return None
    distinct = {canonical(job["config"]): job["config"] for job in jobs}
    made = Plan(list(distinct.values()), jobs[0]["runtime"], cached.name[:8])
    before = plans.replaced(cached, made)
    if before is not None and changed is not None:
        changed(before, made.id)
    with contextlib.suppress(OSError):  # an unwritable store is reported when it is first needed
        plans.save(cached, made)
    return made


def store_of(argv: Sequence[str]) -> Path:
    """The store's folder as the words or the environment name it."""
    chosen = [word.removeprefix("store=") for word in argv if word.startswith("store=")]
    root = chosen[-1] if chosen else os.environ.get("LFPM_BENCH_STORE", DEFAULT_STORE)
    return Path(root).expanduser()


def _cache_path(argv: Sequence[str]) -> Path:
    return plans.path_of(store_of(argv), [os.environ.get("LFPM_BENCH_STORE"), *argv], CONF)


def _expand(argv: Sequence[str]) -> list[dict[str, Any]] | None:
    """The jobs of a plain sweep from one composition, or None where Hydra has to do it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = [word for word in argv if word not in ("-m", "--multirun")]
    if len(words) == len(argv) or any(word.startswith(("-", "+", "~", "hydra")) for word in words):
        return None
    register_datasets()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            parsed = OverridesParser.create().parse_overrides(words)
            fixed = [one for one in parsed if not one.is_sweep_override()]
            base = compose("run", [str(one.input_line) for one in fixed], return_hydra_config=True)
            loader = GlobalHydra.instance().config_loader()
            params = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
            parser = OverridesParser.create(config_loader=loader)
            swept = [one for one in parser.parse_overrides(words) if one.is_sweep_override()]
            # A parameter of one value is an axis of length one; Hydra's base does not hold it.
            every = [*parser.parse_overrides(params), *swept]
            if any(one.package is not None for one in (*fixed, *every)):
                return None  # merge@merge.inner=ties: `key_or_group` would be the merge itself
            if {one.key_or_group for one in fixed} & {one.key_or_group for one in swept}:
                return None  # seed=5 seed=0,1: the later word holds
            last = {one.key_or_group: one.value() for one in fixed}
            axes = {one.key_or_group: _axis(one) for one in every if one.key_or_group not in last}
    except (HydraException, OmegaConfBaseException):
        return None  # the long way says what is wrong
    choices = {group: str(base.hydra.runtime.choices[group]) for group in GROUPS}
    plain: Any = OmegaConf.to_container(base, resolve=False)
    del plain["hydra"]
    plain["store"] = base.store  # the one value that OmegaConf alone can say: of the environment
    made = sweep.jobs(sweep.Sweep(plain, choices, list(last.items()), list(axes.items())))
    try:
        return None if made is None else [_resolved(tree, names) for tree, names in made]
    except (LookupError, TypeError, RecursionError):
        return None  # an interpolation that is no plain reference, or is wrong


def _axis(one: Any) -> list[Any]:
    """The values of a swept word, typed as Hydra types them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not one.is_sweep_override():
        return [one.value()]
    texts = [f"{one.key_or_group}={text}" for text in one.sweep_string_iterator()]
    return [word.value() for word in OverridesParser.create().parse_overrides(texts)]


def _resolved(tree: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    data = tree.pop("dataset")
    return _job({**sweep.resolved(tree, tree), "dataset": data}, names)


def _job(plain: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    runtime = {name: plain.pop(name) for name in RUNTIME if name in plain}
    return {"config": {**_given(plain), "names": names}, "runtime": runtime}


def _given(plain: dict[str, Any]) -> dict[str, Any]:
    """Of the experts only those that are imported; without any, none is spoken of."""
    found = {task: file for task, file in plain.pop("experts").items() if file is not None}
    return {**plain, **({"experts": found} if found else {})}


def _compose(argv: Sequence[str]) -> list[dict[str, Any]]:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.plugins.sweeper import Sweeper
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    jobs: list[dict[str, Any]] = []
    wrong: list[OmegaConfBaseException] = []

    def collect(cfg: Any) -> None:
        choices = HydraConfig.get().runtime.choices
        try:
            plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
            jobs.append(_job(plain, {group: str(choices[group]) for group in GROUPS}))
        except OmegaConfBaseException as error:  # raised here, Hydra would print it, too
            wrong.append(error)

    # The sweeper composes every job once to see whether it does, and then again to run it.
    if "--hydra-help" not in argv:  # Hydra copies them once for every group it names: seconds
        register_datasets()
    once = mock.patch.object(Sweeper, "validate_batch_is_legal")
    with tempfile.TemporaryDirectory() as scratch, _words(argv, scratch), _one_sentence(argv), once:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")(collect)()
        if wrong:
            raise wrong[0]
    return jobs


def register_datasets() -> None:
    """Give Hydra one config, `dataset/every`, that holds all data sets by name.

    As a defaults list of one entry per data set it took most of the time of composing a cell.
    `experts/every` has a place for an imported expert of each.
    """
    from hydra.core.config_store import ConfigStore

    every = {name: option("dataset", name) for name in options("dataset")}
    ConfigStore.instance().store(group="dataset", name="every", node=every, package="dataset")
    places = dict.fromkeys(every)
    ConfigStore.instance().store(group="experts", name="every", node=places, package="experts")


@contextlib.contextmanager
def _words(argv: Sequence[str], scratch: str) -> Iterator[None]:
    """Let Hydra see these words, raise its errors to us, and write its files to `scratch`."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    folders = [f"hydra.run.dir='{scratch}'", f"hydra.sweep.dir='{scratch}'"]
    sys.argv = ["lfpm-bench run", *argv, *folders]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextlib.contextmanager
def _one_sentence(argv: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's exceptions into one sentence each."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        group = group.rsplit("/", 1)[-1]
        raise BenchError(f"unknown {group} '{name}'{nearest(name, options(group))}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise BenchError(_explain(str(error), argv)) from error


def _explain(message: str, argv: Sequence[str]) -> str:
    first = message.strip().splitlines()[0].strip()
    unknown = re.search(r"Could not override '([^']+)'", first)
    if unknown:
        key, known = unknown.group(1), _known_keys()
        if key in known:
            group, _, name = key.partition(".")
            return f"{key} is set, but the chosen {group} has no '{name}'; leave one of them out"
        return f"unknown key {key}{nearest(key, known)}"
    sweep = re.search(r"Ambiguous value for argument '([^']*)'", first)
    if sweep:
        return f"{sweep.group(1)} has several values: add -m to sweep over them, or give one"
    for word in argv:
        if not word.startswith("-") and not _parses(word):
            return f"{word!r} is not in Hydra's override grammar ({first}); check its quoting"
    return first


def _parses(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        return False
    return True


def _known_keys() -> list[str]:
    """Groups and dotted keys of the default configuration, for suggestions."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    register_datasets()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree: Any = OmegaConf.to_container(compose("run"), resolve=False)
    keys = [path.name for path in CONF.iterdir() if path.is_dir() and path.name[0] != "_"]

    def walk(node: Any, prefix: str) -> None:
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(tree, "")
    return [key for key in keys if not key.endswith("_target_")]
