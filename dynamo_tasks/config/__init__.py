"""Configuration: layered sources, deep merge, origins, validation.

Highest priority first::

    command line          --Worker.engine=mocker, --set Worker.engine=mocker
    YAML file             configs/agg.yaml
    environment           DYNAMO_<SERVICE>__<KEY>, then DYNAMO_SERVICE_CONFIG (JSON)
    ``Common``            for the keys that a service lists under ``common-configs``
    ``@service`` arguments
    class attributes

``DYNAMO_NAMESPACE`` is the namespace of components for which none of these names one.

Example:
    >>> layers = [flags_layer(["--Worker.ServiceArgs.workers=2"]), env_layer({})]
    >>> resolve({"Worker": ServiceSchema("Worker")}, layers)["Worker"].workers
    2
"""

from dynamo_tasks.config.layers import Layer, Origin, env_layer, flags_layer, load_yaml
from dynamo_tasks.config.resolve import ResolvedConfig, resolve
from dynamo_tasks.config.schema import DefaultName, ServiceSchema, ServiceSettings
from dynamo_tasks.config.suggest import suggest
from dynamo_tasks.config.table import SECRET_SETTINGS, Row, mask, rows

__all__ = [
    "SECRET_SETTINGS",
    "DefaultName",
    "Layer",
    "Origin",
    "ResolvedConfig",
    "Row",
    "ServiceSchema",
    "ServiceSettings",
    "env_layer",
    "flags_layer",
    "load_yaml",
    "mask",
    "resolve",
    "rows",
    "suggest",
]
