"""Where the worker's log goes, and how a line of it is written."""

import json
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

_LOG_BYTES = 10 << 20  # then a new file is begun; three old ones are kept


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": self.formatTime(record), "level": record.levelname.lower(), "logger": record.name}
        fields["message"] = record.getMessage()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def start_logging(request: dict[str, Any]) -> None:
    """Log to standard error in the foreground, else to a file in the state directory that is rotated."""
    settings = request["settings"]
    handler: logging.Handler = logging.StreamHandler()
    if not request["foreground"]:
        handler = RotatingFileHandler(Path(request["state"], "tierfs.log"), maxBytes=_LOG_BYTES, backupCount=3)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if settings["log_format"] == "json" else plain)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("tierfs").setLevel(settings["log_level"].upper())
