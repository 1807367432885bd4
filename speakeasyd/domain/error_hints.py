"""What a person can do about each error: the words of `why`, `show`, the page and docs/errors.md."""

from collections.abc import Mapping

from speakeasyd.errors import ErrorCode

WHAT_TO_DO: Mapping[ErrorCode, str] = {
    ErrorCode.EMPTY_FILE: "Copy the file again; when it has bytes, it is taken as a new version.",
    ErrorCode.NOT_MEDIA: (
        "Play the file elsewhere. If it is no audio or video, remove it; if it is protected, export it with the "
        "program that it belongs to."
    ),
    ErrorCode.NO_AUDIO: "Nothing to transcribe: a video without sound. Remove it, or export it with its audio track.",
    ErrorCode.NO_SAMPLES: (
        "Play the file elsewhere. If it is silent there as well, it was not recorded to its end, or is protected: "
        "fetch it again from where it came."
    ),
    ErrorCode.DECODE_FAILED: "It is damaged. Fetch it again, or convert what is left: ffmpeg -i FILE new.flac",
    ErrorCode.TOO_LONG: "Raise workers.max_hours, or cut the file; then retry.",
    ErrorCode.BAD_SIDECAR: "Mend the .toml file beside the audio, as the error says, and drop the audio again.",
    ErrorCode.SOURCE_MISSING: "The file was moved or deleted before its turn came. Drop it again.",
    ErrorCode.SOURCE_REPLACED: "Nothing: the newer version of the file has a job of its own.",
    ErrorCode.SOURCE_UNREADABLE: (
        "Give the daemon's user the right to read the file, close the program that holds it, or look at the disk; then "
        "retry."
    ),
    ErrorCode.MODEL_UNAVAILABLE: (
        "Check options.model and the network, or fetch the model beforehand; `speakeasyd doctor` tells what is there. "
        "Then retry."
    ),
    ErrorCode.LIBRARY_MISSING: (
        "pip install 'speakeasyd[gpu]' brings cuBLAS; the driver comes from NVIDIA. `speakeasyd doctor` tells which is "
        "missing. Then retry."
    ),
    ErrorCode.DEVICE_FAILED: (
        "`speakeasyd status` and the view `incidents` tell how. Check driver, temperature and power of the GPU, or let "
        "the CPU help: recovery.cpu_fallback, recovery.cpu_stand_in. Then retry."
    ),
    ErrorCode.OUT_OF_MEMORY: (
        "Choose a smaller model, workers.batch_size or workers.compute_type, or free the memory that other programs "
        "hold; then retry."
    ),
    ErrorCode.POISON: (
        'Other files are not affected. With recovery.on_poison = "gap" all but that stretch is transcribed; or convert '
        "the file (ffmpeg -i FILE new.flac) and drop the result."
    ),
    ErrorCode.WORKER_CRASHED: (
        "The view `incidents`, and the folder `workers` in the state folder, tell how the workers died. Retry once; if "
        "it comes again, convert the file, and please report it."
    ),
    ErrorCode.OUTPUT_REFUSED: "Change options.name, the naming template, to a legal and shorter name; then retry.",
    ErrorCode.CANCELLED: "Nothing; or `speakeasyd retry`, if it is wanted after all.",
    ErrorCode.INTERNAL: "A defect. Please report it with the log; retry after an update.",
}


def find_hint(code: object) -> str:
    """Empty for no code, and for one of a newer version."""
    known = {str(each): advice for each, advice in WHAT_TO_DO.items()}
    return known.get(str(code), "")
