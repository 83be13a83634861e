"""The files of steps: `sources` are hashed before a step starts, what it `produces` once it has succeeded.

Owns the hashes of the sources of running attempts. They are not stored before the end: after a restart of the daemon
those of a worker that went on are unknown, so that step is not reused. Invariant: a file system that does not answer
delays a start or an end by `WITHIN_S`, and nothing else.
"""

from __future__ import annotations

from msgspec.structs import replace

from stoker.core.job.model import Outcome, OutcomeKind, Spec
from stoker.core.job.taken_over import FileHashes
from stoker.engine.memory import LiveState
from stoker.host.file_hashes import FilesWanted, hashes_of

WITHIN_S = 20.0
UNSEEN = FileHashes(unknown="the daemon was restarted while the step ran")


class StepFiles:
    def __init__(self, memory: LiveState) -> None:
        self._memory = memory
        self._sources: dict[str, FileHashes] = {}

    async def before_start(self, run_id: str, spec: Spec) -> None:
        """Hash the sources of an attempt that is about to start."""
        (found,) = await hashes_of([FilesWanted(spec.working_dir, spec.sources)], WITHIN_S)
        self._sources = {one: of for one, of in self._sources.items() if self._memory.by_run(one) is not None}
        self._sources[run_id] = found.hashes

    async def at_end(self, run_id: str, spec: Spec, outcome: Outcome) -> Outcome:
        """The outcome with the hashes; a step without one of its products has failed."""
        sources = self._sources.get(run_id, UNSEEN if spec.sources else FileHashes())
        (found,) = await hashes_of([FilesWanted(spec.working_dir, produces=spec.produces)], WITHIN_S)
        if found.missing and found.hashes.unknown is None:
            error = f"produces: {', '.join(found.missing)}: no such file in {spec.working_dir}"
            return replace(outcome, output_refused=True, error=error)
        unknown = sources.unknown or found.hashes.unknown
        return replace(outcome, files=FileHashes(sources.sources, found.hashes.produces, unknown))


def produced(spec: Spec, outcome: Outcome) -> bool:
    """Whether the files of this end are looked at."""
    asked = bool(spec.sources or spec.produces)
    return asked and outcome.kind is OutcomeKind.EXIT and outcome.exit_code in spec.success_exit_codes
