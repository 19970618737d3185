"""Names and places of the LeRobot v3.0 folder format, shared by its writer and its reader."""

VERSION = "v3.0"
LEGACY_VERSION = "v2.1"
"""The older format, one file per episode, which is read too."""
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EMBODIMENT = "meta/embodiment.json"
"""Our own addition, which lerobot ignores: what the format has no place for, such as the range of the actions."""
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
LEGACY_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
LEGACY_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

STATE = "observation.state"
ACTION = "action"
CAMERA_PREFIX = "observation.images."
EXTRA_PREFIX = "extra/"
"""Columns of the episode table that hold what the caller wants to remember of an episode."""

CHUNK_SIZE = 1000
"""Files per chunk folder."""
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
MB = 1024 * 1024
