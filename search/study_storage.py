"""Optuna's database storage, with several writes of a trial in one transaction, and faster reads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

from search.trial_reader import TrialReader, first_distribution, most_trials, read_trial


@dataclass
class Writes:
    """What is to be written of one trial.

    Attributes:
        params: rows of the table of parameters.
        user, system: attributes.
    """

    params: list[dict[str, Any]] = field(default_factory=list)
    user: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)


class StudyStorage(RDBStorage):
    """As `RDBStorage`, but see `hold_writes` (Optuna takes a transaction for each parameter) and `TrialReader`.

    Attributes:
        cut_offs: how many calls were made again because their connection broke. The server may have done what they
            asked for before, so that there are trials that nobody knows to have asked for.
    """

    cut_offs: int = 0
    _held: dict[int, Writes] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._readers: defaultdict[int, TrialReader] = defaultdict(TrialReader)
        # PostgreSQL is told of each beginning and end of a transaction, and a read needs none.
        postgresql = self.engine.dialect.name == "postgresql"
        self._reads = self.engine.execution_options(isolation_level="AUTOCOMMIT") if postgresql else self.engine

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        included = {number for number in included_trial_ids if number <= trial_id_greater_than}
        if states is not None or len(included) > most_trials():
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        with _told_as_optuna_does(), self._reads.connect() as connection:
            found = self._readers[study_id].of_study(connection, study_id, included, trial_id_greater_than)
        # Of a study that is not there, Optuna's own says so.
        return found or super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with _told_as_optuna_does(), self._reads.connect() as connection:
            trial = read_trial(connection, trial_id)
        if trial is None:
            raise KeyError(f"There is no trial with the id {trial_id}.")
        return trial

    def has_waiting(self, study_id: int) -> bool:
        """Whether a trial of a study waits to be run."""
        table = models.TrialModel
        waiting = sqlalchemy.select(table.trial_id).where(table.study_id == study_id, table.state == TrialState.WAITING)
        with _told_as_optuna_does(), self._reads.connect() as connection:
            return connection.execute(waiting.limit(1)).first() is not None

    def count_before(self, study_id: int, number: int, key: str) -> int:
        """How many trials of a study with lower numbers have a user attribute."""
        trial, attribute = models.TrialModel, models.TrialUserAttributeModel
        counted = sqlalchemy.select(sqlalchemy.func.count()).select_from(attribute)
        counted = counted.join(trial, trial.trial_id == attribute.trial_id)
        counted = counted.where(trial.study_id == study_id, trial.number < number, attribute.key == key)
        with _told_as_optuna_does(), self._reads.connect() as connection:
            return int(connection.execute(counted).scalar_one())

    def attributes_of_study(self, study_id: int, prefix: str) -> dict[str, Any]:
        """Those user attributes of a study whose keys begin like that; few of what may be many and long."""
        table = models.StudyUserAttributeModel
        chosen = (table.study_id == study_id, table.key.startswith(prefix, autoescape=True))
        with _told_as_optuna_does(), self._reads.connect() as connection:
            rows = connection.execute(sqlalchemy.select(table.key, table.value_json).where(*chosen))
            return {key: json.loads(value) for key, value in rows}

    def remove_study_attribute(self, study_id: int, key: str) -> None:
        """Remove a user attribute of a study, if it has it."""
        table = models.StudyUserAttributeModel
        with _create_scoped_session(self.scoped_session, True) as session:
            session.execute(sqlalchemy.delete(table).where(table.study_id == study_id, table.key == key))

    def delete_study(self, study_id: int) -> None:
        super().delete_study(study_id)
        self._readers.pop(study_id, None)  # SQLite gives the next one its number

    @contextmanager
    def hold_writes(self) -> Iterator[None]:
        """Parameters and attributes that are set inside are written at the end, those of a trial in one transaction.

        Until then nobody reads them from the storage, and after an error inside they are not written at all. It is for
        one thread that writes, and not to be nested.
        """
        assert self._held is None
        held = self._held = {}
        try:
            yield
        finally:
            self._held = None
        for trial_id, writes in held.items():
            self.write_together(trial_id, writes)

    def write_together(self, trial_id: int, writes: Writes) -> None:
        """Write them in one transaction."""
        self._write(trial_id, writes)

    def _write(self, trial_id: int, writes: Writes) -> None:
        # As in Optuna's own: who finds the parameters there has written them before, and was cut off.
        with _create_scoped_session(self.scoped_session, True) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session)
            self.check_trial_is_updatable(trial_id, trial.state)  # type: ignore[arg-type]  # its mapped value
            if writes.params:
                rows = [{"trial_id": trial_id, **row} for row in writes.params]
                session.execute(sqlalchemy.insert(models.TrialParamModel), rows)
            for model, attributes in (
                (models.TrialUserAttributeModel, writes.user),
                (models.TrialSystemAttributeModel, writes.system),
            ):
                for key, value in attributes.items():
                    self._set_trial_attr_without_commit(session, model, trial_id, key, value)

    def _first_of(self, trial_id: int, name: str) -> BaseDistribution | None:
        """The distribution of the first parameter of that name in a trial's study, if there is any."""
        with _told_as_optuna_does(), self._reads.connect() as connection:
            return first_distribution(connection, trial_id, name)

    def _of(self, trial_id: int) -> Writes | None:
        return None if self._held is None else self._held.setdefault(trial_id, Writes())

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        writes = self._of(trial_id)
        if writes is None:
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, previous_distribution)
            return
        # What Optuna's cache remembers of the trials before; it knows only those of this process.
        previous = previous_distribution or self._first_of(trial_id, param_name)
        if previous is not None:
            check_distribution_compatibility(previous, distribution)
        writes.params.append(
            {
                "param_name": param_name,
                "param_value": param_value_internal,
                "distribution_json": distribution_to_json(distribution),
            }
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        writes = self._of(trial_id)
        if writes is None:
            self._write(trial_id, Writes(user={key: value}))
        else:
            writes.user[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        writes = self._of(trial_id)
        if writes is None:
            self._write(trial_id, Writes(system={key: value}))
        else:
            writes.system[key] = value


class StudyCache(_CachedStorage):
    """Optuna's cache before a `StudyStorage`, which reads the trials that run less often.

    Optuna looks for a trial that waits before it makes a new one, and reads all that have not finished; its TPE reads
    them again for every parameter. With 1,000 running ones each read takes a tenth of a second.
    """

    _backend: StudyStorage
    _read: set[int] | None = None  # studies that have been read inside `read_once`

    def __init__(self, backend: StudyStorage) -> None:
        super().__init__(backend)
        self._resting: set[int] = set()

    def rest(self, trial_id: int) -> None:
        """Take a trial for unchanged, once it has been read again, until this process writes to it: nobody else does.

        With early stopping most trials pause for the rest of the search.
        """
        self._resting.add(trial_id)

    def _wake(self, trial_id: int) -> None:
        with self._lock:
            if trial_id in self._resting:
                self._resting.remove(trial_id)
                study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
                self._studies[study_id].unfinished_trial_ids.add(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self._wake(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._wake(trial_id)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._wake(trial_id)
        super().set_trial_system_attr(trial_id, key, value)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,) and not self._backend.has_waiting(study_id):
            return []
        return super().get_all_trials(study_id, deepcopy, states)

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """Inside, trials are as they were when they were read first. For one thread, and not to be nested."""
        assert self._read is None
        self._read = set()
        try:
            yield
        finally:
            self._read = None

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if self._read is not None:
            if study_id in self._read:
                return
            self._read.add(study_id)
        resting = set(self._resting)
        super()._read_trials_from_remote_storage(study_id)
        with self._lock:
            self._studies[study_id].unfinished_trial_ids -= resting & self._resting


@contextmanager
def _told_as_optuna_does() -> Iterator[None]:
    try:
        yield
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StorageInternalError("The storage could not be read.") from error


def backend_of(study: optuna.Study) -> Any:
    """The storage of a study without the cache that it is wrapped in."""
    return getattr(study._storage, "_backend", study._storage)


def study_storage(study: optuna.Study) -> StudyStorage | None:
    """The storage of a study, if it is one of ours."""
    storage = backend_of(study)
    return storage if isinstance(storage, StudyStorage) else None


def rest(study: optuna.Study, trial: FrozenTrial) -> None:
    """See `StudyCache.rest`; nothing where the study's storage is another one."""
    if isinstance(study._storage, StudyCache):
        study._storage.rest(trial._trial_id)


@contextmanager
def one_proposal(study: optuna.Study) -> Iterator[None]:
    """What a trial suggests inside is written at the end, at once (`StudyStorage.hold_writes`), and all of it from the
    same trials (`StudyCache.read_once`); nothing of this where the study's storage is another one."""
    storage, cache = study_storage(study), study._storage
    with (
        nullcontext() if storage is None else storage.hold_writes(),
        cache.read_once() if isinstance(cache, StudyCache) else nullcontext(),
    ):
        yield
