"""The tables of Optuna's database storage that hold trials."""

from __future__ import annotations

from typing import Any

from optuna.storages._rdb import models

STUDIES: Any = models.StudyModel.__table__
TRIALS: Any = models.TrialModel.__table__
PARAMS: Any = models.TrialParamModel.__table__
VALUES: Any = models.TrialValueModel.__table__
INTERMEDIATE: Any = models.TrialIntermediateValueModel.__table__
USER: Any = models.TrialUserAttributeModel.__table__
SYSTEM: Any = models.TrialSystemAttributeModel.__table__
