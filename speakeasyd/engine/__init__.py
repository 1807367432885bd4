"""The child's side of a worker: decode, voice activity, model, pipeline. Only the worker process imports it."""
