// The closed sets of values that the page compares. A test compares them with those of the daemon.

export const EventKind = {
  JOB_FAILED: "job.failed",
  JOB_RETRY_FAILED: "job.retry_failed",
  CHUNK_DONE: "chunk.done",
  BATCH_COMPLETED: "batch.completed",
  QUEUE_PAUSED: "queue.paused",
  QUEUE_RESUMED: "queue.resumed",
  RECORDER_STARTED: "recorder.started",
  RECORDER_LEVEL: "recorder.level",
  RECORDER_STOPPED: "recorder.stopped",
  RECORDER_FAILED: "recorder.failed",
};

/** Whether an event is about a job. */
export const isAboutJob = (kind) => kind.startsWith("job.");

/** Whether an event is about the recorder. */
export const isAboutRecorder = (kind) => kind.startsWith("recorder.");

export const Status = {
  PENDING: "pending",
  PROCESSING: "processing",
  COMPLETED: "completed",
  FAILED: "failed",
  CANCELLED: "cancelled",
  SKIPPED: "skipped",
};

export const PauseKind = { PERSON: "person" };

export const RecordingPhase = { RECORDING: "recording", STOPPING: "stopping" };

export const DeviceState = {
  STARTING: "starting",
  READY: "ready",
  BUSY: "busy",
  SOFT_RESTARTING: "soft_restarting",
  POISONED: "poisoned",
  DEVICE_OPEN: "device_open",
  HALF_OPEN: "half_open",
  CPU_ONLY: "cpu_only",
  RECYCLING: "recycling",
  UNLOADED: "unloaded",
  STOPPED: "stopped",
};
