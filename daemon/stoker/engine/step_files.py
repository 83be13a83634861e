"""The files of steps: `sources` are hashed before a step starts, what it `produces` once it has succeeded.

The hashes of the sources are kept in a file of the attempt until its end, so that a death of the daemon loses none.
They are kept before a launcher gets the order, so a recovery knows that an attempt without them never started.
Invariant: a file system that does not answer delays a start or an end by `WITHIN_S`, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from stoker.core.job.model import Outcome, OutcomeKind, Spec
from stoker.core.job.taken_over import FileHashes
from stoker.host.file_hashes import FilesFound, FilesWanted, hashes_of
from stoker.process.work_files import WorkFiles

WITHIN_S = 20.0
LOST = FileHashes(unknown="the hashes of its sources were lost while it ran")

_decode = msgspec.json.Decoder(FileHashes).decode


class StepEnd(NamedTuple):
    """The end of an attempt."""

    spec: Spec
    outcome: Outcome

    @property
    def has_files(self) -> bool:
        """Whether the files of this end are looked at."""
        asked, outcome = bool(self.spec.sources or self.spec.produces), self.outcome
        return asked and outcome.kind is OutcomeKind.EXIT and outcome.exit_code in self.spec.success_exit_codes


class StepFiles:
    def __init__(self, work_files: WorkFiles) -> None:
        self._work_files = work_files

    async def before_start(self, run_id: str, spec: Spec) -> None:
        """Hash the sources of an attempt that is about to start. Raises OSError if the hashes cannot be kept."""
        (found,) = await hashes_of([FilesWanted(spec.working_dir, spec.sources)], WITHIN_S)
        await asyncio.to_thread(self._work_files.put_sources, run_id, msgspec.json.encode(found.hashes))

    async def at_ends(self, ends: Mapping[str, StepEnd]) -> dict[str, Outcome]:
        """By run, the outcomes with the hashes; a step without one of its products has failed."""
        ends = {run_id: end for run_id, end in ends.items() if end.has_files}
        wanted = [FilesWanted(end.spec.working_dir, produces=end.spec.produces) for end in ends.values()]
        found = await hashes_of(wanted, WITHIN_S) if wanted else []
        sources = await asyncio.to_thread(lambda: [self._sources(run_id, end.spec) for run_id, end in ends.items()])
        told = zip(ends.values(), sources, found, strict=True)
        return dict(zip(ends, (_with_files(*one) for one in told), strict=True))

    def _sources(self, run_id: str, spec: Spec) -> FileHashes:
        """Those of the file; a worker, or a power cut, may have damaged it."""
        if not spec.sources:
            return FileHashes()
        try:
            return _decode(self._work_files.take_sources(run_id))
        except (OSError, msgspec.MsgspecError):
            return LOST


def _with_files(end: StepEnd, sources: FileHashes, found: FilesFound) -> Outcome:
    if found.missing and found.hashes.unknown is None:
        error = f"produces: {', '.join(found.missing)}: no such file in {end.spec.working_dir}"
        return replace(end.outcome, output_refused=True, error=error)
    unknown = sources.unknown or found.hashes.unknown
    return replace(end.outcome, files=FileHashes(sources.sources, found.hashes.produces, unknown))
