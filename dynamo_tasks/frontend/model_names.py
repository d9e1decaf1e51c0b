"""Names of models that clients use, and the served models that they stand for: aliases, splits by weight, fallbacks.

Which model a name stands for follows from the request alone, not from what is served at the moment: so the same
request, sent again, is meant for the same model. Only a fallback depends on what is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.frontend.gateway import ServedModel

__all__ = ["ModelNames", "Target"]

_MOST_NAMES, _MOST_TARGETS, _LONGEST = 1000, 32, 256
_MOST_WEIGHT = 1e6


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that a name stands for.

    Attributes:
        name: A served model, or another name.
        weight: Its share of the requests, beside those of the other targets.
    """

    name: str
    weight: float = 1.0


class ModelNames(msgspec.Struct, frozen=True):
    """The names of one frontend; ``ModelNames()`` has none.

    Attributes:
        aliases: The targets of each name. One of its own name is the served model of that name.
        fallbacks: Names to try, in this order, where the model of a name cannot take a request.
    """

    aliases: dict[str, tuple[Target, ...]] = {}
    fallbacks: dict[str, tuple[str, ...]] = {}

    @classmethod
    def read(cls, models: Any, fallbacks: Any) -> ModelNames:
        """Read the settings ``models`` and ``fallbacks``.

        Raises:
            ConfigError: one of them is not valid, or names stand for each other in a circle; says which.
        """
        names = cls(
            {name: _targets(name, given) for name, given in _mapping("models", models).items()},
            {name: _fallbacks(name, given) for name, given in _mapping("fallbacks", fallbacks).items()},
        )
        known: set[str] = set()
        for name in names.aliases:
            names._check_circle((name,), known)
        return names

    def _check_circle(self, way: tuple[str, ...], known: set[str]) -> None:
        """Refuse a circle among what the end of a way stands for; ``known`` are names that lead into none."""
        name = way[-1]
        if name in known:
            return
        targets = self.aliases.get(name, ())
        for target in targets:
            itself = target.name == name and len(targets) > 1
            if (target.name in way and not itself) or len(way) > _MOST_TARGETS:
                raise ConfigError(f"models: {' → '.join([*way, target.name])} is a circle", param="models")
            if not itself:
                self._check_circle((*way, target.name), known)
        known.add(name)

    def candidates(self, name: str, seed: str) -> list[str]:
        """The served models to try for a request, in this order; the name itself where nothing is said of it.

        Args:
            name: As the client has it.
            seed: Of the request; the same one gives the same choice.
        """
        if name not in self.aliases and name not in self.fallbacks:
            return [name]
        way = list(self._way(name, seed))
        found = [way[-1]]
        for step in dict.fromkeys(way):
            found += [list(self._way(other, seed))[-1] for other in self.fallbacks.get(step, ())]
        return list(dict.fromkeys(found))

    def _way(self, name: str, seed: str) -> Iterator[str]:
        """The name, and what it stands for, step by step; the last one is a served model."""
        yield name
        while targets := self.aliases.get(name):
            before, name = name, _chosen(targets, f"{name}\n{seed}")
            yield name
            if name == before:
                return

    def shown(self, served: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
        """All names that can be used now, and what is known of their models.

        Args:
            served: The models that are served.

        Returns:
            For a name of several models: the likeliest one that is served, with the shortest of their lengths.
        """
        out = dict(served)
        for name in {**self.aliases, **self.fallbacks}:
            models = [served[model] for model in self._possible(name) if model in served]
            if models:
                lengths = [model.card.max_model_len for model in models if model.card.max_model_len]
                card = msgspec.structs.replace(models[0].card, max_model_len=min(lengths, default=0))
                out[name] = msgspec.structs.replace(models[0], card=card)
            else:
                out.pop(name, None)
        return out

    def _possible(self, name: str) -> list[str]:
        """All models that a name may stand for, the likeliest first, fallbacks last."""
        todo, seen, out = [name], {name}, []
        while todo:
            one = todo.pop(0)
            targets = sorted(self.aliases.get(one, (Target(one),)), key=lambda target: -target.weight)
            out += [target.name for target in targets if target.name == one]
            more = [target.name for target in targets] + (
                list(self.fallbacks.get(one, ())) if one == name else []
            )
            todo += [other for other in more if other not in seen]
            seen.update(more)
        return out


def _chosen(targets: tuple[Target, ...], seed: str) -> str:
    if len(targets) == 1:
        return targets[0].name
    drawn = int.from_bytes(blake2b(seed.encode(errors="replace"), digest_size=8).digest()) / 2**64
    left = drawn * sum(target.weight for target in targets)
    for target in targets:
        left -= target.weight
        if left < 0:
            return target.name
    return targets[-1].name


def _mapping(setting: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given or {}, Mapping):
        raise ConfigError(f"{setting} must be an object of names, not {type(given).__name__}", param=setting)
    if len(given or {}) > _MOST_NAMES:
        raise ConfigError(
            f"{setting} has {len(given)} names; at most {_MOST_NAMES} are allowed", param=setting
        )
    for name in given or {}:
        _check_name(setting, name)
    return given or {}


def _check_name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST or not name.isprintable():
        raise ConfigError(f"{where}: {name!r:.80} is not the name of a model", param=where.partition(".")[0])
    return name


def _targets(name: str, given: Any) -> tuple[Target, ...]:
    where = f"models.{name}"
    rows = given if isinstance(given, list | tuple) else [given]
    if not 0 < len(rows) <= _MOST_TARGETS:
        raise ConfigError(f"{where} must name 1 to {_MOST_TARGETS} models, not {len(rows)}", param="models")
    try:
        found = [Target(row) if isinstance(row, str) else msgspec.convert(row, Target) for row in rows]
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{where} must be a name, or a list of {{name, weight}}: {error}", param="models"
        ) from None
    for target in found:
        _check_name(where, target.name)
        if not 0 < target.weight <= _MOST_WEIGHT:
            raise ConfigError(
                f"{where}: the weight of {target.name!r} must be above 0 and at most {_MOST_WEIGHT:g}, "
                f"not {target.weight}", param="models",
            )  # fmt: skip
    if len({target.name for target in found}) < len(found):
        raise ConfigError(f"{where} names a model twice", param="models")
    return tuple(found)


def _fallbacks(name: str, given: Any) -> tuple[str, ...]:
    where = f"fallbacks.{name}"
    rows = [given] if isinstance(given, str) else given
    if not isinstance(rows, list | tuple) or not 0 < len(rows) <= _MOST_TARGETS:
        raise ConfigError(f"{where} must be a list of 1 to {_MOST_TARGETS} names", param="fallbacks")
    found = tuple(_check_name(where, other) for other in rows)
    if name in found or len(set(found)) < len(found):
        raise ConfigError(f"{where} must name other models, each once", param="fallbacks")
    return found
