"""Everything that a worker can do wrong, done by the scripted engine in a real worker process."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from speakeasyd.domain.fault import FaultKind, Remedy, classify_fault
from speakeasyd.testing import FaultScript, InjectedFault, Phase
from tests.torture.place import Place
from tests.torture.scenario import Run, Scenario
from tests.unit.test_fault import TEXTS

GPU: Mapping[str, Mapping[str, object]] = {
    "workers": {"device": "cuda:0", "batch_size": 2, "replicas": 1}
}
CHUNKS = 6  # a file
MID_FILE = 3  # a chunk that shares its batch with one of another file
# That one bad file may cost: twice on the GPU, once on the CPU, once for bad luck
MOST_RESTARTS = 4
TERMINATED = (
    "terminate called after throwing an instance of 'std::runtime_error'\n"
    "  what():  CUDA failed with error an illegal memory access was encountered\n"
)
_BEYOND_REPAIR = {
    Remedy.OTHER_MODEL,
    Remedy.CPU_FOR_GOOD,
}  # nothing goes on before a person has mended it


def verbatim() -> list[InjectedFault]:
    """A fault with each text that is known from the field and that a daemon can get over by itself."""
    return [
        InjectedFault("fault", text=text, phase=cast(Phase, phase))
        for phase, text, kind in TEXTS
        if kind != FaultKind.FILE
        and classify_fault(phase=phase, error=text).remedy not in _BEYOND_REPAIR
    ]


def at_load(run: Run) -> None:
    """A daemon for each text: its first model will not load."""
    texts = verbatim()
    for number in run.times(len(texts)):
        with run.place(settings=GPU) as place:
            play(place, run, [replace(texts[number], at="load")])


def at_chunk(run: Run, *, chunk: int) -> None:
    """A bad day: one daemon, a file for each text."""
    texts = verbatim()[: 3 if run.quick else None]
    with run.place(settings=GPU) as place:
        play(place, run, [replace(text, chunk=chunk) for text in texts], one_file_each=True)
    run.rounds += len(texts)


def again_and_again(run: Run, *, misdeed: InjectedFault, rounds: int) -> None:
    misdeeds = [replace(misdeed, chunk=MID_FILE)] * (1 if run.quick else rounds)
    with run.place(settings=GPU) as place:
        play(place, run, misdeeds, one_file_each=True)
    run.rounds += len(misdeeds)


def play(
    place: Place, run: Run, misdeeds: list[InjectedFault], *, one_file_each: bool = False
) -> None:
    """Two innocent files, and one for each misdeed where they strike one file each. All have to come through."""
    names = [f"innocent-{number}.wav" for number in range(2)]
    if one_file_each:
        victims = [f"victim-{number}.wav" for number in range(len(misdeeds))]
        misdeeds = [
            replace(misdeed, file=name) for misdeed, name in zip(misdeeds, victims, strict=True)
        ]
        names += victims
    place.script(FaultScript(tuple(misdeeds), chunk_s=0.01))
    for name in names:
        place.drop_script(name, chunks=CHUNKS, dice=run.dice)
    to_the_end(place, run)
    if place.rows("SELECT count(*) FROM incidents")[0][0] == 0 and misdeeds[0].do != "soft_fault":
        run.complain("nothing happened")


def to_the_end(place: Place, run: Run) -> None:
    place.start()
    place.wait_for_end()
    place.until(
        lambda: not place.rows("SELECT 1 FROM incidents WHERE resolved_at IS NULL"),
        "the device to be well",
    )
    run.ready_s += [
        row[0]
        for row in place.rows("SELECT cost_seconds FROM incidents WHERE cost_seconds IS NOT NULL")
    ]
    place.stop()


def poison(run: Run, *, misdeed: InjectedFault, on_poison: str, codes: frozenset[str]) -> None:
    """One file takes every worker down. It is found out; the files beside it come through."""
    for _ in run.times(5):
        with run.place(settings={**GPU, "recovery": {**SPARING, "on_poison": on_poison}}) as place:
            place.script(
                FaultScript((replace(misdeed, file="/poison.wav", times=0),), chunk_s=0.01)
            )
            for name in ("a.wav", "b.wav", "poison.wav", "y.wav", "z.wav"):
                place.drop_script(name, chunks=CHUNKS, dice=run.dice)
            if codes:
                place.codes["poison.wav"] = codes
            else:
                place.texts["poison.wav"] = None  # with a gap
            to_the_end(place, run)
            if place.rows("SELECT count(*) FROM incidents")[0][0] > MOST_RESTARTS:
                run.complain("one bad file cost too many workers")


SPARING = {"max_attempts": 3}


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    fault: str
    misdeed: InjectedFault
    rounds: int = 5

    @property
    def scenario(self) -> Scenario:
        return Scenario(
            self.name,
            self.fault,
            lambda run: again_and_again(run, misdeed=self.misdeed, rounds=self.rounds),
        )


CASES = (
    _Case("abort", "the worker aborts", InjectedFault("abort")),
    _Case(
        "uncaught",
        "the worker is terminated by an uncaught CUDA error",
        InjectedFault("last_words", text=TERMINATED),
    ),
    _Case("segfault", "the worker segfaults", InjectedFault("segfault")),
    _Case("exit-0", "the worker exits with 0 and no result", InjectedFault("exit")),
    _Case("hang", "the worker hangs", InjectedFault("hang"), rounds=3),
    _Case("stop", "the worker is stopped (SIGSTOP)", InjectedFault("stop"), rounds=3),
    _Case("eat-memory", "the worker exceeds its memory limit", InjectedFault("eat_memory")),
    _Case(
        "half-message", "the worker dies in the middle of a message", InjectedFault("half_message")
    ),
    _Case("garbage", "the worker sends invalid data", InjectedFault("garbage")),
    _Case(
        "deliver-and-abort",
        "the worker sends its result, then aborts",
        InjectedFault("deliver_and_abort"),
    ),
    _Case(
        "soft-out-of-memory",
        "out of memory, recovered in the same process",
        InjectedFault("soft_fault", text="CUDA failed with error out of memory"),
    ),
)
DEADLY = InjectedFault("abort", chunk=MID_FILE)
SCENARIOS = (
    Scenario("cuda-load", "each known CUDA error message, while the model loads", at_load),
    Scenario(
        "cuda-first",
        "each known message, at a file's first chunk",
        lambda run: at_chunk(run, chunk=0),
    ),
    Scenario(
        "cuda-mid",
        "each known message, in the middle of a file",
        lambda run: at_chunk(run, chunk=MID_FILE),
        in_quick=True,
    ),
    *(case.scenario for case in CASES),
    Scenario(
        "poison-fail",
        "a poison file beside other files: failed",
        lambda run: poison(run, misdeed=DEADLY, on_poison="fail", codes=frozenset({"poison"})),
    ),
    Scenario(
        "poison-gap",
        "a poison file beside other files: completed with a gap",
        lambda run: poison(run, misdeed=DEADLY, on_poison="gap", codes=frozenset()),
        in_quick=True,
    ),
    Scenario(
        "poison-open",
        "a file that crashes workers when it is opened",
        lambda run: poison(
            run,
            misdeed=InjectedFault("abort", at="open"),
            on_poison="gap",
            codes=frozenset({"worker_crashed"}),
        ),
    ),
)
