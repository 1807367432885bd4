"""What a user can do about each error code: shown by `why`, `show`, the page and docs/errors.md."""

from collections.abc import Mapping

from speakeasyd.errors import ErrorCode

WHAT_TO_DO: Mapping[ErrorCode, str] = {
    ErrorCode.EMPTY_FILE: "Copy the file again. With content it is accepted as a new version.",
    ErrorCode.NOT_MEDIA: (
        "Play the file in another program. If it is not audio or video, remove it. If it is "
        "protected, export it with the program that it belongs to."
    ),
    ErrorCode.NO_AUDIO: (
        "There is nothing to transcribe. Remove the file, or export it with its audio track."
    ),
    ErrorCode.NO_SAMPLES: (
        "Play the file in another program. If it is silent there as well, the recording is "
        "incomplete or protected: copy it again from its origin."
    ),
    ErrorCode.DECODE_FAILED: (
        "The file is damaged. Copy it again, or convert what can be read: ffmpeg -i FILE new.flac"
    ),
    ErrorCode.TOO_LONG: "Raise workers.max_hours or split the file, then retry.",
    ErrorCode.BAD_SIDECAR: (
        "Correct the .toml file beside the audio, as the error says, and drop the audio again."
    ),
    ErrorCode.SOURCE_MISSING: (
        "The file was moved or deleted before its job started. Drop it again."
    ),
    ErrorCode.SOURCE_REPLACED: "Nothing to do: the newer version of the file is another job.",
    ErrorCode.SOURCE_LINKED: "Put the file itself into the inbox, not a link to it; then retry.",
    ErrorCode.SOURCE_UNREADABLE: (
        "Give the daemon's user permission to read the file, close the program that locks it, or "
        "check the disk. Then retry."
    ),
    ErrorCode.MODEL_UNAVAILABLE: (
        "Check options.model and the network, or download the model beforehand. `speakeasyd "
        "doctor` shows which models are present. Then retry."
    ),
    ErrorCode.LIBRARY_MISSING: (
        "pip install 'speakeasyd[gpu]' installs cuBLAS; the driver comes from NVIDIA. `speakeasyd "
        "doctor` shows which is missing. Then retry."
    ),
    ErrorCode.DEVICE_FAILED: (
        "`speakeasyd status` and the view `incidents` show the faults. Check driver, temperature "
        "and power of the GPU, or allow the CPU: recovery.cpu_fallback, recovery.cpu_stand_in. "
        "Then retry."
    ),
    ErrorCode.OUT_OF_MEMORY: (
        "Choose a smaller model, workers.batch_size or workers.compute_type, or free memory that "
        "other programs use. Then retry."
    ),
    ErrorCode.POISON: (
        'Other files are not affected. With recovery.on_poison = "gap" everything but that chunk '
        "is transcribed. Or convert the file (ffmpeg -i FILE new.flac) and drop the result."
    ),
    ErrorCode.WORKER_CRASHED: (
        "The view `incidents` and the folder `workers` in the state folder show how the workers "
        "died. Retry once. If it fails again, convert the file and report the problem."
    ),
    ErrorCode.OUTPUT_REFUSED: (
        "Change the naming template options.name so that it gives a valid and shorter name, then "
        "retry."
    ),
    ErrorCode.CANCELLED: "Nothing to do. `speakeasyd retry` starts the job again.",
    ErrorCode.INTERNAL: "This is a bug. Report it with the log, and retry after an update.",
}


def find_hint(code: object) -> str:
    """Return what to do about an error code; empty for none and for unknown codes."""
    known = {str(each): hint for each, hint in WHAT_TO_DO.items()}
    return known.get(str(code), "")
