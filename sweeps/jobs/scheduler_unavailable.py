"""That those who run the tasks cannot be asked at the moment, which says nothing of the tasks."""

from __future__ import annotations

from nepa_scale.utils.errors import UserError


class SchedulerUnavailableError(UserError):
    """The scheduler does not answer: it is being restarted, or has too much to do."""
