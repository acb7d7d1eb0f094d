"""The media connection of a simulated session: tracks that play the agent, and an ear for the user."""

from orchestrator.simulation.context import SimulationContext
from orchestrator.simulation.ear import Ear
from orchestrator.simulation.player import Track


class SimulatedHandler:
    """Plays and hears. Unlike a real handler it plays two playbacks at once, if it is asked to."""

    def __init__(self, world: SimulationContext, node: str, handler_id: str) -> None:
        self.handler_id = handler_id
        self.ear = Ear(world, node, handler_id)
        self.tracks: dict[str, Track] = {}
        self._world = world
        self._paused_early = ""

    def audible(self) -> tuple[str, ...]:
        return tuple(name for name, track in self.tracks.items() if track.is_audible)

    def paused(self) -> tuple[str, ...]:
        return tuple(name for name, track in self.tracks.items() if track.paused and not track.over)

    def play(self, playback_id: str) -> Track:
        """Begin a playback, or continue it on a new track. It begins paused if `pause` named it before."""
        if (before := self.tracks.get(playback_id)) is not None:
            before.stop()
        track = self.tracks[playback_id] = Track(self._world.time)
        if self._paused_early == playback_id:
            track.pause()
        return track

    def pause(self, playback_id: str) -> None:
        if playback_id in self.tracks:
            self.tracks[playback_id].pause()
        else:
            self._paused_early = playback_id

    def resume(self, playback_id: str) -> None:
        self._forget(playback_id)
        if playback_id in self.tracks:
            self.tracks[playback_id].resume()

    def stop(self, playback_id: str) -> None:
        self._forget(playback_id)
        if (track := self.tracks.pop(playback_id, None)) is not None:
            track.stop()

    def close(self) -> None:
        """Close the connection: neither side hears the other any more."""
        self.ear.close()
        for track in self.tracks.values():
            track.stop()

    def _forget(self, playback_id: str) -> None:
        if self._paused_early == playback_id:
            self._paused_early = ""
