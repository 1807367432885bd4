"""Which file a reader reads on: the order of the queue, and how much is read ahead."""

from collections.abc import Iterable

from speakeasyd.engine.pipeline_job import PipelineJob

LATER_SHARE = 0.25  # of what is read ahead, for unread files other than the first


def choose_job_to_read(jobs: Iterable[PipelineJob], *, ahead_s: float) -> PipelineJob | None:
    """Return the first job by turn whose file may be read on; None if there is none.

    `ahead_s`: seconds of speech read ahead for all jobs. Most of it is for the first file that is not
    read to its end, so that its clips fill the calls and its text is complete before that of others;
    not while it has no clips, because it is read slowly or has no speech.
    """
    ordered = sorted(jobs, key=lambda job: job.turn)
    unread = [job for job in ordered if not job.finished]
    is_full = sum(job.seconds_ahead for job in ordered) >= ahead_s
    later_s = ahead_s * (LATER_SHARE if unread and unread[0].seconds_ahead else 1)
    later_is_full = sum(job.seconds_ahead for job in unread[1:]) >= later_s
    for job in unread:
        has_room = not is_full and (job is unread[0] or not later_is_full)
        if not job.being_read and (has_room or job.starved):
            return job
    return None
