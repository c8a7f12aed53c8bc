"""Whether the base that is at hand is the base of the run."""

from spectra.analysis.doctor.case import SAMPLE, Case, spread
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.verdict.findings import Check
from spectra.weights.storage.tensors import digest

NAME = "base"


def check(case: Case) -> list[Check]:
    """Compare the names of the base tensors, and the digests of some, with the manifest."""
    if case.base is None:
        error = case.obstacles.get("base")
        return [] if error is None or case.adapter is None else [skipped(NAME, error.what, error.hint or "")]
    manifest = None if case.run is None else case.run.manifest
    if manifest is None or not manifest.base.fingerprints:
        return []
    then = manifest.base.fingerprints
    names = set(then) ^ set(case.base)
    if names:
        says = f"{len(names)} parameters are in only one of this base model and the one of the run, first {min(names)}"
        return [_wrong(says, len(names) / len(then), case)]
    looked = spread(sorted(then), 2 * SAMPLE)
    stored = case.base.as_stored()
    changed = [name for name in looked if digest(stored[name]) != then[name]]
    if changed:
        says = f"{len(changed)} of {len(looked)} tensors differ from the base model of the run, first {changed[0]}"
        return [_wrong(says, len(changed) / len(looked), case)]
    return [ok(NAME, f"{len(looked)} of {len(then)} base tensors match the base model of the run")]


def _wrong(says: str, share: float, case: Case) -> Check:
    action = "pass the base model of the run, in its original dtype, with --base"
    return Check(NAME, "fault", fact("fingerprint", says, share, 0.0, 0.0), action, "wrong_base", str(case.base_dir))
